"""Arrays of a ``.npz`` file mapped into memory: processes share the pages, and none copies them.

``save_arrays`` aligns each array in the file; of other writers' files (and those before 0.3) the
arrays are read instead.
"""

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

ALIGNMENT = 64  # bytes; numpy pads its own header to the same
_LOCAL_HEADER, _LENGTHS = 30, struct.Struct("<26xHH")  # of a file in an archive: name, extra field
_ZIP64_BYTES = 20
_PADDING_ID = 0xD935  # of an extra field, as Android's zipalign writes it


def save_arrays(file: IO[bytes] | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as ``np.savez`` does, each at a multiple of 64 bytes."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        assert archive.fp is not None
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy")
            start = archive.fp.tell() + _LOCAL_HEADER + len(info.filename) + _ZIP64_BYTES + 4
            padding = bytes(-start % ALIGNMENT)
            info.extra = struct.pack("<HH", _PADDING_ID, len(padding)) + padding
            with archive.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def map_arrays(path: Path, *, verify: bool = True) -> dict[str, np.ndarray]:
    """Map the arrays of a file; writing to one changes this process's copy only.

    Args:
        path: The file.
        verify: Read everything once and compare it with its checksums.

    Returns:
        Name -> array.

    Raises:
        Exception: Of many kinds, if the file is damaged.
    """
    whole = np.memmap(path, np.uint8, "c")
    with zipfile.ZipFile(path) as archive:
        if verify and (name := archive.testzip()):
            raise zipfile.BadZipFile(f"Bad CRC-32 for file {name!r}")
        return {
            info.filename.removesuffix(".npy"): _mapped(whole, archive, info)
            for info in archive.infolist()
        }


def _mapped(whole: np.ndarray, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    start = info.header_offset + _LOCAL_HEADER
    header: Any = whole[info.header_offset : start]
    with archive.open(info) as member:
        np.lib.format.read_magic(member)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
        start += sum(_LENGTHS.unpack(header.tobytes())) + member.tell()
        stored = info.compress_type == zipfile.ZIP_STORED and not fortran
        if not stored or start % ALIGNMENT or dtype.hasobject:
            member.seek(0)
            return np.lib.format.read_array(member, allow_pickle=False)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return np.asarray(whole[start : start + size]).view(dtype).reshape(shape)
