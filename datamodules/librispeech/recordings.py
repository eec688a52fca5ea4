"""Recordings: checked while shards are written, decoded while they are read."""

import hashlib
import io

import numpy as np

from datamodules.common.reading import reading
from datamodules.common.records import raw_file
from datamodules.common.shard_writer import Loaded
from datamodules.librispeech.flac import SAMPLE_RATE as SAMPLE_RATE
from datamodules.librispeech.flac import decode_checked
from datamodules.librispeech.raw import Utterance


def load(utterance: Utterance) -> Loaded:
    """Load an utterance for a shard; its row of the index ends with its number of samples."""
    path = utterance.path
    if path.is_fifo():  # to open it could take forever
        raise ValueError(f"{path}: is a pipe, not a recording; extract it again")
    with reading(path):  # not to be taken for an error in writing the shard
        content = path.read_bytes()
        raw = [
            raw_file(path, hashlib.sha256(content).hexdigest()),
            raw_file(utterance.transcript),
        ]
    audio = decode_checked(path, content)
    parts = (content, utterance.text.encode())
    return Loaded(parts, raw, [len(audio.samples)], audio.digest)


def decode(content: bytes) -> np.ndarray:
    """Decode a FLAC file's bytes to audio_N, int16; empty if they are damaged."""
    import soundfile

    try:
        return soundfile.read(io.BytesIO(content), dtype="int16")[0]
    except soundfile.LibsndfileError:
        return np.zeros(0, dtype=np.int16)
