"""Recordings from outside the data set."""

import numpy as np
import torch

from datamodules.common.inputs import input_file
from datamodules.librispeech.audio import Batch, Sample, collate
from datamodules.librispeech.recordings import SAMPLE_RATE

WHAT = "a recording (FLAC, WAV, OGG, MP3), mono at 16 kHz"
LEAST_SAMPLES = 400  # one window of the features, 25 ms
SEED = 0  # of the dither


def read_recording(source: str) -> Batch:
    """Read a recording as an evaluation batch of one, without labels.

    Args:
        source: Sound file.

    Returns:
        The batch; ``labels`` is empty.

    Raises:
        OSError: If there is no such file.
        ValueError: If it cannot be decoded, has another rate or more channels, or is too short.
    """
    import soundfile

    path = input_file(source, WHAT)
    try:
        audio, rate = soundfile.read(path, dtype="int16", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, ValueError) as error:
        reason = str(error).rpartition(": ")[2].strip().rstrip(".")
        raise ValueError(f"{source}: cannot be decoded ({reason}); needed is {WHAT}") from error
    if rate != SAMPLE_RATE or audio.shape[1] != 1:
        raise ValueError(
            f"{source}: {rate} Hz, {audio.shape[1]} channels; needed: {SAMPLE_RATE} Hz, 1; convert "
            f"it with ffmpeg -i FILE -ar {SAMPLE_RATE} -ac 1 FILE.flac"
        )
    if len(audio) < LEAST_SAMPLES:
        raise ValueError(f"{source}: {len(audio)} samples; needed are {LEAST_SAMPLES} (25 ms)")
    samples = torch.from_numpy(np.ascontiguousarray(audio[:, 0]))
    return collate([Sample(samples, torch.zeros(0, dtype=torch.int64), SEED, 0)])
