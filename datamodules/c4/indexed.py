"""Megatron's indexed token files: ``.bin`` has the bare token ids, ``.idx`` the documents' lengths.

Little endian. ``.idx``: a header of 34 bytes (magic, version, code of the type, N sequences, D
bounds of documents), N int32 lengths, N int64 byte offsets into ``.bin``, D int64 bounds. Here each
document is one sequence, so the bounds are 0 ... N.

Source: NVIDIA/Megatron-LM @ 59055868, megatron/core/datasets/indexed_dataset.py.
"""

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.common.atomic import atomic_file
from datamodules.common.reading import reading

MAGIC, VERSION = b"MMIDIDX\0\0", 1
HEADER = struct.Struct("<9sQBQQ")
# Megatron's codes; 6 and 7 are floating-point types, which hold no tokens.
TYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 8: "uint16"}
CODES = {name: code for code, name in TYPES.items()}
SHORT_VOCABULARY = 65_500  # below it Megatron writes uint16
AGAIN = "fetch or make it again"


class Index(NamedTuple):
    """Fields of a header."""

    dtype: str
    """Of the tokens in ``.bin``."""
    documents: int
    bounds: int


class Pair(NamedTuple):
    """The two files of a split, or where they are to be."""

    bin: Path
    idx: Path

    @classmethod
    def of(cls, stem: Path) -> "Pair":
        """Return the files of a path without ending."""
        return cls(stem.with_name(f"{stem.name}.bin"), stem.with_name(f"{stem.name}.idx"))


def token_type(vocab_size: int) -> str:
    """Return the type that Megatron stores tokens of a vocabulary in."""
    return "uint16" if vocab_size < SHORT_VOCABULARY else "int32"


def index_bytes(documents: int, bounds: int | None = None) -> int:
    """Return the size of an ``.idx``; without bounds, of one with a document per sequence."""
    return HEADER.size + 12 * documents + 8 * (documents + 1 if bounds is None else bounds)


def read_header(path: Path) -> Index:
    """Read and check the header of an ``.idx``; ValueError of one line if it is another file."""
    with reading(path), path.open("rb") as file:
        head = file.read(HEADER.size)
        size = path.stat().st_size
    if len(head) < HEADER.size or head[: len(MAGIC)] != MAGIC:
        raise ValueError(f"{path} is not an index of Megatron (no MMIDIDX at its start); {AGAIN}")
    _, version, code, documents, bounds = HEADER.unpack(head)
    if version != VERSION:
        raise ValueError(f"{path}: version {version} of the format, only {VERSION} is known")
    if code not in TYPES:
        known = ", ".join(f"{code} {name}" for code, name in TYPES.items())
        raise ValueError(f"{path}: type code {code} is none of whole numbers ({known}); {AGAIN}")
    if size != index_bytes(documents, bounds):
        raise ValueError(
            f"{path} has {size:,} bytes, but its header means {documents:,} sequences and "
            f"{bounds:,} bounds, {index_bytes(documents, bounds):,} bytes; {AGAIN}"
        )
    if bounds != documents + 1:
        raise ValueError(
            f"{path}: {bounds - 1:,} documents of {documents:,} sequences; make the files with one "
            "sequence per document"
        )
    return Index(TYPES[code], documents, bounds)


def map_lengths(path: Path, documents: int) -> np.ndarray:
    """Map the lengths of documents: (N,) int32, in tokens."""
    return _mapped(path, "<i4", HEADER.size, documents)


def map_offsets(path: Path, documents: int) -> np.ndarray:
    """Map the places of documents: (N,) int64, in bytes."""
    return _mapped(path, "<i8", HEADER.size + 4 * documents, documents)


def map_bounds(path: Path, documents: int) -> np.ndarray:
    """Map the bounds of documents: (N + 1,) int64, in sequences."""
    return _mapped(path, "<i8", HEADER.size + 12 * documents, documents + 1)


def map_tokens(path: Path, dtype: str) -> np.ndarray:
    """Map the tokens of a ``.bin``: one long array of its type."""
    return _mapped(path, dtype, 0, path.stat().st_size // np.dtype(dtype).itemsize)


def _mapped(path: Path, dtype: str, start: int, count: int) -> np.ndarray:
    """Map an array, which need not be aligned; a plain array is quicker to slice than a memmap."""
    if not count:
        return np.empty(0, dtype)
    return np.asarray(np.memmap(path, dtype, "r", start, (count,)))


def write_index(path: Path, dtype: str, lengths: np.ndarray) -> None:
    """Write an ``.idx`` atomically.

    Args:
        path: The file.
        dtype: Type of the tokens in ``.bin``.
        lengths: (N,) tokens of each document.
    """
    count = lengths.size
    offsets = np.zeros(count, np.int64)
    np.cumsum(lengths[:-1], dtype=np.int64, out=offsets[1:])
    with atomic_file(path) as file:
        file.write(HEADER.pack(MAGIC, VERSION, CODES[dtype], count, count + 1))
        for array, kind in (
            (lengths, "<i4"),
            (offsets * np.dtype(dtype).itemsize, "<i8"),
            (np.arange(count + 1), "<i8"),
        ):
            file.write(np.ascontiguousarray(array, kind).data)
