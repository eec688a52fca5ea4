"""A damaged recording of LibriSpeech gets one line."""

import numpy as np
import pytest
import soundfile

from tests.datamodules.librispeech.tiny_librispeech import first_flac, problem, write_tiny


@pytest.fixture
def root(tmp_path):
    return write_tiny(tmp_path / "LibriSpeech")


def cut_short(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def header_only(path):
    content = bytearray(path.read_bytes()[:42])
    content[4] |= 0x80  # this block of facts is the last one
    content[21] &= 0xF0  # and gives 0 as the number of samples
    content[22:26] = bytes(4)
    path.write_bytes(content)


def years(path):
    content = bytearray(path.read_bytes())
    content[21] |= 0xF
    path.write_bytes(content)


def under_the_name_of_flac(form, subtype):
    def write(path):
        with path.open("wb") as file:
            soundfile.write(file, np.ones(2000) / 3, 16000, format=form, subtype=subtype)

    return write


def bits_of_the_md5(path):
    content = bytearray(path.read_bytes())
    content[30] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (cut_short, "extract it again"),
        (lambda path: path.write_bytes(b""), "empty file"),
        (lambda path: path.write_bytes(b"no sound at all" * 99), "cannot be decoded"),
        (lambda path: soundfile.write(path, np.zeros(100), 8000), "8000 Hz, 1 channels"),
        (lambda path: soundfile.write(path, np.zeros((100, 2)), 16000), "16000 Hz, 2 channels"),
        (header_only, "does not state its number of samples"),
        (years, "its header promises 6442"),
        (under_the_name_of_flac("WAV", "FLOAT"), "is a WAV file under the name of a FLAC"),
        (under_the_name_of_flac("WAV", "PCM_16"), "is a WAV file"),
        (under_the_name_of_flac("OGG", "VORBIS"), "is an Ogg file"),
        (under_the_name_of_flac("MP3", "MPEG_LAYER_III"), "extract it again"),
        (bits_of_the_md5, "do not have the MD5 it states"),
    ],
)
def test_bad_recording_gets_one_line(root, spoil, words):
    path = first_flac(root)
    spoil(path)
    lines = problem(root).splitlines()
    assert len(lines) == 1
    assert str(path) in lines[0]
    assert words in lines[0]


def test_many_bad_recordings_are_summed_up(root):
    for path in (root / "train-clean-100").rglob("*.flac"):
        path.write_bytes(b"")
    lines = problem(root).splitlines()
    assert len(lines) == 7
    assert lines[-1].startswith("... and 6 more")
