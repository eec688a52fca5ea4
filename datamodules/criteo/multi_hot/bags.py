"""Bags of ids: each table row has a fixed set of further rows that are looked up with it.

Letters: B rows of a batch, L ids of all bags of a row.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.common.records import MANIFEST

# Ids per bag, the row itself included. Source: mlcommons/training @ aa344c7,
# recommendation_v2/torchrec_dlrm, README (multi_hot_sizes).
BAG_SIZES = (3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1)
FILE = "bags.npy"
CHUNK_IDS = 1 << 24


def write_bags(path: Path, table_sizes: Sequence[int]) -> int:
    """Draw all tables' bags into one file, ids but the first, and return its bytes' CRC-32.

    One stream of numpy's legacy generator, seeded 0, goes through the tables in order, as in the
    reference's materialisation with the uniform distribution: the ids are the same.

    Args:
        path: ``.npy`` file to write; int32, the tables one after the other.
        table_sizes: Rows of each table.

    Returns:
        The checksum of the whole file.
    """
    shape = (sum(_further(table_sizes)),)
    drawn = np.lib.format.open_memmap(path, "w+", np.int32, shape)
    random, start = np.random.RandomState(0), 0
    for rows, size in zip(table_sizes, BAG_SIZES, strict=True):
        if size == 1:  # draws nothing
            continue
        step = max(1, CHUNK_IDS // (size - 1))
        for first in range(0, rows, step):
            count = min(step, rows - first) * (size - 1)
            drawn[start : start + count] = random.randint(0, rows, size=count, dtype=np.int32)
            start += count
    drawn.flush()
    del drawn
    return checksum(path)


def checksum(path: Path) -> int:
    """Return the CRC-32 of a file."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            value = zlib.crc32(block, value)
    return value


def file_bytes(table_sizes: Sequence[int]) -> int:
    """Return the size of the file of these tables' bags."""
    return 128 + 4 * sum(_further(table_sizes))


def _further(table_sizes: Sequence[int]) -> list[int]:
    """Return how many ids each table's bags have besides the first."""
    return [rows * (size - 1) for rows, size in zip(table_sizes, BAG_SIZES, strict=True)]


class Bags:
    """The bags of all tables, in numpy or as tensors on a device."""

    def __init__(self, tables: Sequence[Any]) -> None:
        """Keep the further ids of each table: int32 (rows, bag size - 1)."""
        self.tables = list(tables)

    @classmethod
    def open(cls, path: Path, table_sizes: Sequence[int]) -> "Bags":
        """Map a file of ``write_bags`` into memory.

        Args:
            path: The file.
            table_sizes: Rows of each table.

        Returns:
            The bags, in numpy.

        Raises:
            ValueError: If it has other bags than these tables need, or is damaged.
        """
        try:
            drawn = np.load(path, mmap_mode="r")
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"{path}: its header is damaged; {_again(path)}") from error
        counts = _further(table_sizes)
        if drawn.dtype != np.int32 or drawn.shape != (sum(counts),):
            raise ValueError(
                f"{path} has {drawn.dtype} {drawn.shape}, but these tables need int32 "
                f"({sum(counts)},); {_again(path)}"
            )
        parts = np.split(drawn, np.cumsum(counts)[:-1])
        shapes = zip(parts, table_sizes, BAG_SIZES, strict=True)
        return cls([part.reshape(rows, size - 1) for part, rows, size in shapes])

    def expand(self, rows_BT: np.ndarray) -> np.ndarray:
        """Return each row's bags side by side: int32 (B, 214)."""
        ids_BL = np.empty((len(rows_BT), sum(BAG_SIZES)), np.int32)
        start = 0
        for table, (further, size) in enumerate(zip(self.tables, BAG_SIZES, strict=True)):
            ids_BL[:, start] = rows_BT[:, table]
            ids_BL[:, start + 1 : start + size] = further[rows_BT[:, table]]
            start += size
        return ids_BL


def _again(path: Path) -> str:
    return f"delete {path.parent / MANIFEST} and run prepare"
