"""Damage anywhere in a TensorFlow checkpoint is refused; see also bert/test_checkpoint.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from modules.common.crc32c import crc32c, masked
from modules.common.tensor_bundle import STRING, TensorBundle
from tests.tools.flips import flips

DATA = Path(__file__).parents[1] / "bert" / "data"  # written by TensorFlow 2.21.0
ENDING = ".data-00000-of-00001"


def read_all(prefix: Path) -> dict[str, bytes]:
    """Variables' names and contents, as a user of the bundle reads them."""
    bundle = TensorBundle(prefix)
    variables = bundle.variables()
    keys = [key for key, entry in bundle.entries.items() if entry.dtype != STRING]
    contents = {key: bundle.read(key).tobytes() for key in keys}
    return {f"{name} {key}": contents.get(key, b"") for name, key in variables.items()}


# RFC 3720, appendix B.4, and the usual check value.
@pytest.mark.parametrize(
    ("content", "crc"),
    [
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"", 0),
    ],
)
def test_crc_is_that_of_the_rfc_in_one_piece_and_in_two(content: bytes, crc: int) -> None:
    assert crc32c(content) == crc
    assert crc32c(content[5:], crc32c(content[:5])) == crc


def test_mask_is_tensorflows() -> None:
    assert masked(0) == 0xA282EAD8
    assert masked(0x8000) == 0xA282EAD9


@pytest.mark.parametrize("version", ["tf1", "tf2", "snappy/tf1", "snappy/tf2"])
def test_no_flipped_byte_of_an_index_is_read(tmp_path: Path, version: str) -> None:
    name = Path(version).name
    shutil.copy(DATA / f"{name}{ENDING}", tmp_path)
    whole = (DATA / f"{version}.index").read_bytes()
    for number, damaged in enumerate(flips(whole, 60)):
        (tmp_path / f"{name}.index").write_bytes(damaged)
        with pytest.raises(ValueError, match="not a TensorFlow checkpoint index"):
            pytest.fail(f"flip {number} was read: {list(TensorBundle(tmp_path / name).entries)}")


@pytest.mark.parametrize("version", ["tf1", "tf2"])
def test_no_flipped_byte_of_the_tensors_is_read(tmp_path: Path, version: str) -> None:
    shutil.copy(DATA / f"{version}.index", tmp_path)
    whole = (DATA / f"{version}{ENDING}").read_bytes()
    for damaged in flips(whole, 40):
        (tmp_path / f"{version}{ENDING}").write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged .its checksum is wrong.; download it"):
            read_all(tmp_path / version)


def test_whole_files_are_read() -> None:
    for version in ("tf1", "tf2"):
        assert all(np.frombuffer(v, np.uint8).size for v in read_all(DATA / version).values())
