"""Arrays in a file: numpy reads them, and mapping copies none of them."""

import pickle

import numpy as np
import pytest

from datamodules.common.array_file import ALIGNMENT, map_arrays, save_arrays

ARRAYS = {
    "box": np.arange(12.0).reshape(3, 4),
    "name": np.array(["a.jpg", "ß.png"]),
    "crowd": np.array([True, False, True]),
    "empty": np.zeros((0, 2), np.int64),
    "odd_bytes": np.arange(5, dtype=np.uint8),
    "corner": np.linspace(0, 1, 1001, dtype=np.float32),
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "arrays.npz"
    with path.open("wb") as file:
        save_arrays(file, ARRAYS)
    return path


def assert_same(found):
    assert list(found) == list(ARRAYS)
    for name, wanted in ARRAYS.items():
        assert found[name].dtype == wanted.dtype
        np.testing.assert_array_equal(found[name], wanted)


def is_mapped(array):
    while array.base is not None and not isinstance(array.base, np.memmap):
        array = array.base
    return isinstance(array.base, np.memmap)


def test_numpy_reads_them(path):
    with np.load(path) as arrays:
        assert_same(dict(arrays))


def test_they_are_mapped_and_aligned(path):
    found = map_arrays(path)
    assert_same(found)
    for name, array in found.items():
        assert is_mapped(array), name
        assert array.ctypes.data % ALIGNMENT == 0 or not array.size
        assert type(array) is np.ndarray  # a memmap's slices cost more


def test_arrays_of_numpys_own_writer_are_read(tmp_path):
    np.savez(tmp_path / "plain.npz", **ARRAYS)
    assert_same(map_arrays(tmp_path / "plain.npz"))
    np.savez_compressed(tmp_path / "packed.npz", **ARRAYS)
    assert_same(map_arrays(tmp_path / "packed.npz"))


def test_a_changed_value_stays_in_this_process(path):
    before = path.read_bytes()
    map_arrays(path)["box"][0] = 7
    assert path.read_bytes() == before


def test_a_flipped_bit_is_found(path):
    content = bytearray(path.read_bytes())
    content[content.index(ARRAYS["corner"].tobytes()) + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(Exception, match="Bad CRC-32 for file 'corner.npy'"):
        map_arrays(path)
    map_arrays(path, verify=False)  # of a file that another process has verified


def test_bytes_depend_on_nothing_else(path, tmp_path):
    save_arrays(tmp_path / "again.npz", ARRAYS)
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()
    assert len(pickle.dumps(map_arrays(path))) < 2 * sum(a.nbytes for a in ARRAYS.values())
