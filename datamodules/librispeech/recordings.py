"""Recordings: checked while shards are written, decoded while they are read."""

import hashlib
import io
from pathlib import Path

import numpy as np

from datamodules.common.records import raw_file
from datamodules.common.shard_writer import Loaded
from datamodules.librispeech.raw import Utterance

SAMPLE_RATE = 16_000


def load(utterance: Utterance) -> Loaded:
    """Load an utterance for a shard; its row of the index ends with its number of samples."""
    content, num_samples = checked_recording(utterance.path)
    raw = [
        raw_file(utterance.path, hashlib.sha256(content).hexdigest()),
        raw_file(utterance.transcript),
    ]
    return Loaded((content, utterance.text.encode()), raw, [num_samples])


def checked_recording(path: Path) -> tuple[bytes, int]:
    """Return a FLAC file's bytes and number of samples once all of it has been decoded.

    Raises a ValueError of one line unless it is mono, 16 kHz, whole and not empty.
    """
    import soundfile

    try:
        content = path.read_bytes()
    except OSError as error:  # not to be taken for an error in writing the shard
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    if not content:
        raise ValueError(f"{path}: empty file; extract its archive again")
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as sound:
            rate, channels, promised = sound.samplerate, sound.channels, sound.frames
            samples = len(sound.read(dtype="int16"))
    except (soundfile.LibsndfileError, RuntimeError, ValueError, MemoryError) as error:
        reason = str(error).rpartition(":")[2].strip().rstrip(".")
        raise ValueError(f"{path}: cannot be decoded ({reason}); extract it again") from error
    if rate != SAMPLE_RATE or channels != 1:
        raise ValueError(f"{path}: {rate} Hz, {channels} channels; needed: {SAMPLE_RATE} Hz, 1")
    if promised == 0:
        raise ValueError(f"{path}: contains no sound (0 samples)")
    if samples != promised:
        raise ValueError(f"{path}: truncated, {samples} of {promised} samples; extract it again")
    return content, samples


def decode(content: bytes) -> np.ndarray:
    """Decode a FLAC file's bytes to audio_N, int16; empty if they are damaged."""
    import soundfile

    try:
        return soundfile.read(io.BytesIO(content), dtype="int16")[0]
    except soundfile.LibsndfileError:
        return np.zeros(0, dtype=np.int16)
