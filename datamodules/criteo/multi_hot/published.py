"""The published multi-hot Criteo files, read as they are: three files a day.

``day_<d>_dense.npy`` (rows, 13) float32 (already ``log(x + 3)``), ``day_<d>_labels.npy`` (rows, 1)
int32 and ``day_<d>_sparse_multi_hot.npz``, an uncompressed zip whose members ``0.npy`` ...
``25.npy`` are int32 (rows, bag size). Source: mlcommons/training @ aa344c7,
recommendation_v2/torchrec_dlrm, data/multi_hot_criteo.py.

Letters: N rows.
"""

import math
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from datamodules.criteo.batches import Block
from datamodules.criteo.multi_hot.bags import BAG_SIZES
from datamodules.criteo.sketch import equal_days, extend
from datamodules.criteo.text import NUM_DENSE, Rows

CHECK_ROWS = 1 << 18
_LOCAL_HEADER = 30  # bytes of a member's header in a zip, before its name
MOST_DENSE = 21.5  # log(x + 3) of the largest int32
AGAIN = "download this file again"


def day_paths(root: Path, day: int) -> tuple[Path, Path, Path]:
    """Return a day's files: numbers, bags and labels."""
    names = ("dense.npy", "sparse_multi_hot.npz", "labels.npy")
    dense, bags, labels = (root / f"day_{day}_{name}" for name in names)
    return dense, bags, labels


def is_published(root: Path) -> bool:
    """Whether a directory has multi-hot files rather than text."""
    return any(root.glob("day_*_sparse_multi_hot.npz"))


def days_there(root: Path) -> list[int]:
    """Return the numbers of the days of which a directory has any file."""
    pattern = re.compile(r"day_(\d{1,3})_(dense\.npy|labels\.npy|sparse_multi_hot\.npz)")
    return [int(match[1]) for path in root.glob("day_*") if (match := pattern.fullmatch(path.name))]


def problems(root: Path, num_days: int) -> list[str]:
    """Return one line per missing, damaged or mismatching file; reads headers only."""
    if num_days < 2:
        return [f"{root} has day 0 only: at least two days are needed, the last one for evaluation"]
    lines = []
    for day in range(num_days):
        paths = day_paths(root, day)
        if missing := [path.name for path in paths if not path.is_file()]:
            lines.append(f"{root}: {', '.join(missing)} missing; download the rest of the data")
            continue
        try:
            open_day(root, day)
        except ValueError as error:
            lines.append(str(error))
    return lines


def open_day(root: Path, day: int) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Map a day's files into memory.

    Args:
        root: Their directory.
        day: The day's number.

    Returns:
        dense_NF float32, 26 arrays of ids int32 (N, bag size), label_N int32.

    Raises:
        ValueError: If a file is damaged, or has another type, or the three do not have the same
            rows.
    """
    dense_path, bags_path, labels_path = day_paths(root, day)
    dense, labels = _mapped(dense_path), _mapped(labels_path)
    rows = dense.shape[0] if dense.ndim else 0
    _check(dense_path, dense, np.float32, (rows, NUM_DENSE))
    if not rows:
        raise ValueError(f"{dense_path} has no rows; {AGAIN}")
    _check(labels_path, labels, np.int32, (rows, 1))
    bags = []
    for table, member in enumerate(_members(bags_path)):
        _check(f"{bags_path}, {table}.npy", member, np.int32, (rows, BAG_SIZES[table]))
        bags.append(member)
    return dense, bags, labels[:, 0]


def day_rows(root: Path, day: int) -> int:
    """Return a day's rows, from one header."""
    return len(_mapped(day_paths(root, day)[0]))


def _mapped(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r")
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is not a whole .npy file ({error}); {AGAIN}") from error


def _check(path: Path | str, array: np.ndarray, dtype: type, shape: tuple[int, int]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(
            f"{path} holds {array.dtype} {array.shape} instead of {np.dtype(dtype)} {shape}; "
            f"{AGAIN}"
        )


def _members(path: Path) -> list[np.ndarray]:
    """Map the 26 arrays of an uncompressed zip; offsets beyond 4 GB are zip64's."""
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            infos = [archive.getinfo(f"{table}.npy") for table in range(len(BAG_SIZES))]
            return [_member(path, file, info) for info in infos]
    except (zipfile.BadZipFile, KeyError, struct.error, EOFError, OSError) as error:
        lacks = f"{path} is not a whole zip of 0.npy to 25.npy ({error}); {AGAIN}"
        raise ValueError(lacks) from error


def _member(path: Path, file: BinaryIO, info: zipfile.ZipInfo) -> np.ndarray:
    """Map one member that is not compressed."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{path}: {info.filename} is compressed; {AGAIN}")
    file.seek(info.header_offset)
    header = file.read(_LOCAL_HEADER)
    name_bytes, extra_bytes = struct.unpack("<HH", header[26:30])
    file.seek(info.header_offset + _LOCAL_HEADER + name_bytes + extra_bytes)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0
        if version == (2, 0):
            read = np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except ValueError as error:
        raise ValueError(f"{path}: {info.filename} is no .npy file; {AGAIN}") from error
    start = file.tell()
    end = info.header_offset + _LOCAL_HEADER + name_bytes + extra_bytes + info.file_size
    if dtype.hasobject or end - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{path}: {info.filename} does not hold what it says; {AGAIN}")
    return np.memmap(path, dtype, "r", start, shape, order="F" if fortran else "C")


class PublishedRows:
    """Rows of a split over all its days."""

    def __init__(self, root: Path, split: str, table_sizes: tuple[int, ...], num_days: int) -> None:
        """Open the days of ``train``, or the first half of the last day, which is ``test``.

        Args:
            root: Directory of the files.
            split: ``train`` or ``test``.
            table_sizes: Rows of each table, which no id may reach.
            num_days: Days; the last is the evaluation's.
        """
        self._root, self._sizes = root, np.array(table_sizes, np.int32)
        self._days = range(num_days - 1) if split == "train" else range(num_days - 1, num_days)
        self._files = [open_day(root, day) for day in self._days]
        counts = [len(dense) for dense, _, _ in self._files]
        if split != "train":
            counts = [math.ceil(counts[0] / 2)]
        self._ends = np.cumsum(counts)

    def __call__(self, block: Block) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read a block, wrapped around at the split's end.

        Args:
            block: First row and number of rows.

        Returns:
            dense_NF float32, ids_NL int32, label_N uint8.

        Raises:
            ValueError: If a number, an id or a label is out of range; the line names file and row.
        """
        dense = np.empty((block.num_rows, NUM_DENSE), np.float32)
        ids = np.empty((block.num_rows, sum(BAG_SIZES)), np.int32)
        label = np.empty(block.num_rows, np.uint8)
        done = 0
        while done < block.num_rows:
            position = (block.start + done) % int(self._ends[-1])
            number = int(np.searchsorted(self._ends, position, side="right"))
            first = position - (int(self._ends[number - 1]) if number else 0)
            count = min(block.num_rows - done, int(self._ends[number]) - position)
            part = slice(done, done + count)
            self._read(number, slice(first, first + count), dense[part], ids[part], label[part])
            done += count
        return dense, ids, label

    def day_blocks(self, num_rows: int) -> Iterator[tuple[int, Block]]:
        """Yield all rows in order: day and block, none of which is of two days."""
        start = 0
        for day, end in zip(self._days, self._ends.tolist(), strict=True):
            for first in range(start, end, num_rows):
                yield day, Block(first, min(num_rows, end - first))
            start = end

    def check_labels(self) -> None:
        """Raise if all test rows have one label: the metric is not defined then."""
        label_N = self._files[0][2][: self._ends[0]]
        if label_N.min() == label_N.max():
            raise ValueError(
                f"{day_paths(self._root, self._days[0])[2]}: all {len(label_N):,} rows of its "
                f"first half, which are the test rows, have label {label_N[0]}; the metric needs "
                "both labels, replace this day"
            )

    def _read(
        self, number: int, part: slice, dense: np.ndarray, ids: np.ndarray, label: np.ndarray
    ) -> None:
        files, day = self._files[number], self._days[number]
        dense[:], labels, start = files[0][part], files[2][part], 0
        for table, (bag, size) in enumerate(zip(files[1], BAG_SIZES, strict=True)):
            ids[:, start : start + size] = own = bag[part]
            self._check_ids(day, table, part.start, own)
            start += size
        self._check_dense(day, part.start, dense)
        if len(labels) and (labels.min() < 0 or labels.max() > 1):
            row = part.start + int(((labels < 0) | (labels > 1)).argmax())
            path = day_paths(self._root, day)[2]
            raise ValueError(f"{path}, row {row:,}: label {labels[row - part.start]}; {AGAIN}")
        label[:] = labels

    def _check_dense(self, day: int, first: int, dense: np.ndarray) -> None:
        good = (dense >= 0) & (dense <= MOST_DENSE)  # False for NaN
        if good.all():
            return
        row, column = np.argwhere(~good)[0]
        raise ValueError(
            f"{day_paths(self._root, day)[0]}, row {first + row:,}: {dense[row, column]} is no "
            f"log(x + 3) of an integer x from -2 to 2^31 - 1; {AGAIN}"
        )

    def _check_ids(self, day: int, table: int, first: int, ids: np.ndarray) -> None:
        if not len(ids) or (ids.min() >= 0 and ids.max() < self._sizes[table]):
            return
        wrong = ((ids < 0) | (ids >= self._sizes[table])).any(1)
        row = int(wrong.argmax())
        raise ValueError(
            f"{day_paths(self._root, day)[1]}, {table}.npy, row {first + row:,}: ids "
            f"{ids[row].tolist()} are not all in [0, {self._sizes[table]:,}), the table's rows"
        )


def check_split(
    root: Path, table_sizes: tuple[int, ...], num_days: int, split: str, *, sketch: bool
) -> dict[int, np.ndarray]:
    """Read a split whole.

    Args:
        root: Directory of the files.
        table_sizes: Rows of each table.
        num_days: Days; the last is the evaluation's.
        split: ``train`` or ``test``.
        sketch: Make a sketch of each day's rows, to find days that are equal.

    Returns:
        The sketches by day.

    Raises:
        ValueError: If a row is bad, or the test rows have one label only; one line.
    """
    rows = PublishedRows(root, split, table_sizes, num_days)
    sketches: dict[int, np.ndarray] = {}
    for day, block in rows.day_blocks(CHECK_ROWS):
        content = rows(block)
        if sketch:
            known = sketches.get(day, np.empty(0, np.uint64))
            sketches[day] = extend(known, _some_columns(*content))
    if split == "test":
        rows.check_labels()
    return sketches


def equal_day_lines(root: Path, sketches: Mapping[int, np.ndarray]) -> list[str]:
    """Return a line per pair of days that share rows."""
    return [f"{root}/{line}; replace one of them" for line in equal_days(sketches)]


def _some_columns(dense_NF: np.ndarray, ids_NL: np.ndarray, label_N: np.ndarray) -> Rows:
    """Return rows with the first id of each bag, which is the row's own."""
    firsts = np.cumsum((0, *BAG_SIZES[:-1]))
    return Rows(label_N, dense_NF.view(np.int32), ids_NL[:, firsts].T)
