"""FLAC files: what their first block states, and all samples or none."""

import hashlib
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np

SAMPLE_RATE = 16_000
MOST_SAMPLES = 3600 * SAMPLE_RATE  # an hour; a damaged header can promise years
NOT_STATED = 2**36  # FLAC has 36 bits for the number; libsndfile gives more where it is 0
_MAGIC, _STREAM_INFO = b"fLaC", 0
_CONTAINERS = {b"RIFF": "a WAV", b"OggS": "an Ogg", b"ID3": "an MP3", b"\xff\xfb": "an MP3"}


class Audio(NamedTuple):
    """A decoded recording."""

    samples: np.ndarray  # int16
    digest: str  # of the samples, 16 hexadecimal digits


def decode_checked(path: Path, content: bytes) -> Audio:
    """Decode a whole recording; raise a ValueError of one line unless it is as LibriSpeech's.

    That is FLAC, mono, 16 kHz, complete, and with the samples that its own MD5 was taken of. Of 24
    bits the upper 16 are kept.
    """
    import soundfile

    if not content:
        raise ValueError(f"{path}: empty file; extract its archive again")
    _check_is_flac(path, content)
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as sound:
            rate, channels, promised = sound.samplerate, sound.channels, sound.frames
            _check_form(path, rate, channels, promised)
            wide_N = sound.read(dtype="int32")  # in the upper bits
    except (soundfile.LibsndfileError, RuntimeError, MemoryError) as error:
        reason = str(error).rpartition(":")[2].strip().rstrip(".")
        raise ValueError(f"{path}: cannot be decoded ({reason}); extract it again") from error
    if len(wide_N) != promised:
        raise ValueError(
            f"{path}: truncated, {len(wide_N)} of {promised} samples; extract it again"
        )
    _check_md5(path, content, wide_N)
    samples = (wide_N >> 16).astype(np.int16)
    return Audio(samples, hashlib.sha256(samples.tobytes()).hexdigest()[:16])


def _check_is_flac(path: Path, content: bytes) -> None:
    # soundfile goes by the content: a WAV of floats would give samples of 0 and 1 in silence.
    if content.startswith(_MAGIC):
        return
    kind = next((name for start, name in _CONTAINERS.items() if content.startswith(start)), None)
    if kind is None:
        raise ValueError(f"{path}: cannot be decoded (it is not FLAC); extract it again")
    raise ValueError(f"{path}: is {kind} file under the name of a FLAC; convert it to FLAC")


def _check_form(path: Path, rate: int, channels: int, promised: int) -> None:
    if rate != SAMPLE_RATE or channels != 1:
        raise ValueError(f"{path}: {rate} Hz, {channels} channels; needed: {SAMPLE_RATE} Hz, 1")
    if promised == 0:
        raise ValueError(f"{path}: contains no sound (0 samples)")
    if promised >= NOT_STATED:
        raise ValueError(f"{path}: does not state its number of samples; encode it again")
    if promised > MOST_SAMPLES:
        raise ValueError(
            f"{path}: its header promises {promised} samples, more than the hour that is allowed; "
            "extract it again or split it"
        )


def _check_md5(path: Path, content: bytes, wide_N: np.ndarray) -> None:
    """Compare the samples with the MD5 in the first block, STREAMINFO; zeros mean none."""
    block = content[8:42]
    bits = ((block[12] & 1) << 4 | block[13] >> 4) + 1
    expected, width = block[18:34], bits // 8
    if content[4] & 0x7F != _STREAM_INFO or bits % 8 or not any(expected):
        return
    packed_N4 = wide_N.astype("<i4").view(np.uint8).reshape(-1, 4)
    if hashlib.md5(packed_N4[:, 4 - width :].tobytes()).digest() != expected:
        raise ValueError(f"{path}: its samples do not have the MD5 it states; extract it again")
