"""Criteo click logs as text: one day's lines to integers, in one pass over the bytes.

A line is 40 tab-separated fields: label, 13 integers, 26 categories of up to 8 hexadecimal digits;
all but the label may be empty. Rules: mlcommons/training v1.0 ``dlrm``, facebookresearch/dlrm @
6d75c84d ``data_utils.py``.

Letters: N rows of a block.
"""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from datamodules.common.reading import BoundedGzip

NUM_DENSE, NUM_TABLES = 13, 26
NUM_FIELDS = 1 + NUM_DENSE + NUM_TABLES
BLOCK_BYTES = 1 << 25
SHORTEST_LINE = NUM_FIELDS + 1  # a label, 39 tabs and the line's end
LONGEST_LINE = 1 << 20  # bytes; a real one has some 300
# Bytes that gzip may unpack to: real days unpack to three times their size.
MOST_BYTES, MOST_RATIO = 1 << 30, 100
TAB, NEWLINE, RETURN, MINUS, ZERO, NINE = 9, 10, 13, 45, 48, 57
INT32_MAX = 2**31 - 1
LEAST_DENSE = -2  # log(x + 3) must be a number; the logs have none below
PROBLEMS = {
    1: "must have 40 tab-separated fields",
    2: "field 1 (the label) must be 0 or 1",
    3: "field {field} must be an integer of at most 32 bits or empty",
    4: "field {field} must be a category of at most 8 hexadecimal digits or empty",
    5: "field {field} must be at least -2, as its logarithm is taken plus 3",
}


class Rows(NamedTuple):
    """Consecutive lines of a day."""

    label: np.ndarray
    """(N,) uint8, 0 or 1."""
    dense: np.ndarray
    """(N, 13) int32, at least 0; no logarithm yet."""
    sparse: np.ndarray
    """(26, N) int32 hash values in ``[0, max_ind_range)``; a missing one is 0."""


def day_file(root: Path, day: int) -> Path | None:
    """Return ``day_<n>`` or else ``day_<n>.gz``; None if neither exists."""
    paths = (path for path in (root / f"day_{day}", root / f"day_{day}.gz") if path.is_file())
    return next(paths, None)


def most_unpacked(path: Path) -> int:
    """Return how many bytes of text one byte of a day's file can give."""
    return 1032 if path.suffix == ".gz" else 1  # deflate's limit


def half_unpacked(root: Path, day: int) -> str:
    """Describe a day whose text is not what the ``.gz`` next to it unpacks to; else empty."""
    plain, packed = root / f"day_{day}", root / f"day_{day}.gz"
    if not (plain.is_file() and packed.is_file()) or packed.stat().st_size < 18:
        return ""
    with packed.open("rb") as file:
        file.seek(-4, 2)
        size = int.from_bytes(file.read(4), "little")  # of the text, modulo 2^32
    if plain.stat().st_size % 2**32 == size:
        return ""
    return (
        f"{plain} has {plain.stat().st_size:,} bytes, which is not the size of the text in "
        f"{packed.name}: unpack it again, or delete one of the two"
    )


def read_day(
    path: Path,
    max_ind_range: int,
    block_bytes: int = BLOCK_BYTES,
    digest: Any = None,
    *,
    keep_negative: bool = False,
) -> Iterator[Rows]:
    """Parse one day in blocks, so that memory does not depend on the day's size.

    Raises a ValueError that names the line if the format is wrong or the gzip stream is broken.
    ``digest`` (of hashlib) is updated with the file's bytes. A negative integer becomes 0, or, with
    ``keep_negative``, stays and must be at least -2. With a ``max_ind_range`` of 2^32 the hash
    values are the text's own 32 bits, as if unsigned.
    """
    lines_done = 0
    for text in _whole_lines(path, block_bytes, digest):
        rows, problem, line, field = _parse(text, max_ind_range, keep_negative)
        if problem:
            what = PROBLEMS[problem].format(field=field + 1)
            raise ValueError(f"{path} line {lines_done + line + 1:,}: {what}")
        lines_done += len(rows.label)
        yield rows
    if not lines_done:
        raise ValueError(f"{path} is empty; download this day again")


def _whole_lines(path: Path, block_bytes: int, digest: Any) -> Iterator[np.ndarray]:
    """Yield the file's bytes in blocks that end with a line."""
    rest = b""  # the start of a line whose end is in the next block
    try:
        with path.open("rb") as raw, _plain(_Hashed(raw, digest), path) as file:
            while block := file.read(block_bytes):
                block = rest + block
                end = block.rfind(b"\n") + 1
                rest = block[end:]
                if len(rest) > LONGEST_LINE:  # it would grow with the file
                    too_long = f"a line of more than {LONGEST_LINE:,} bytes"
                    raise ValueError(f"{path}: {too_long}; download this day again")
                if end:
                    yield np.frombuffer(block, np.uint8, end)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{path} is a truncated or damaged gzip file ({error}); download this day again"
        ) from error
    if rest:
        yield np.frombuffer(rest + b"\n", np.uint8)


class _Hashed:
    """A file whose bytes are hashed as they are read, which saves reading them twice."""

    def __init__(self, file: BinaryIO, digest: Any) -> None:
        self._file, self._digest = file, digest

    def read(self, size: int = -1) -> bytes:
        block = self._file.read(size)
        if self._digest is not None:
            self._digest.update(block)
        return block


def _plain(file: _Hashed, path: Path) -> Any:
    """Decompress a file if its name says so."""
    if path.suffix != ".gz":
        return nullcontext(file)
    return BoundedGzip(file, path, MOST_BYTES + MOST_RATIO * path.stat().st_size)


def _parse(text: np.ndarray, max_ind_range: int, keep_negative: bool) -> tuple[Rows, int, int, int]:
    """Parse a block; returns its rows, and problem (0: none), line and field of the first fault."""
    most = len(text) // SHORTEST_LINE + 1
    rows = Rows(
        np.empty(most, np.uint8),
        np.empty((most, NUM_DENSE), np.int32),
        np.empty((NUM_TABLES, most), np.int32),
    )
    count, problem, field = compiled(_parse_lines)(text, max_ind_range, keep_negative, *rows)
    return (
        Rows(rows.label[:count], rows.dense[:count], rows.sparse[:, :count]),
        problem,
        count,
        field,
    )


@cache
def compiled(function: Any) -> Any:
    """Compile a numeric function, which takes about a second on its first call."""
    import numba

    return numba.njit(nogil=True)(function)


def _parse_lines(  # noqa: C901  (one state machine, one pass)
    text: np.ndarray,
    max_ind_range: int,
    keep_negative: bool,
    label: np.ndarray,
    dense: np.ndarray,
    sparse: np.ndarray,
) -> tuple[int, int, int]:
    """Fill the arrays; returns the number of valid lines, the problem after them and its field."""
    position, row = 0, 0
    while position < len(text):
        for field in range(NUM_FIELDS):
            start = position
            value = 0
            if field <= NUM_DENSE:
                negative = text[position] == MINUS
                position += negative
                while ZERO <= text[position] <= NINE:
                    # Beyond 32 bits the value is rejected below; it need not be exact.
                    value = min(value * 10 + (text[position] - ZERO), INT32_MAX + 1)
                    position += 1
                digits = position - start - negative
                if value > INT32_MAX or (negative and digits == 0):
                    return row, 3, field
                if negative and keep_negative:
                    value = -value
                    if value < LEAST_DENSE:
                        return row, 5, field
                elif negative:
                    value = 0
            else:
                # At most 8 hexadecimal digits fit in 32 bits, so the value cannot overflow.
                while True:
                    byte = text[position]
                    if ZERO <= byte <= NINE:
                        digit = byte - ZERO
                    elif 97 <= byte <= 102 or 65 <= byte <= 70:
                        digit = (byte & 7) + 9
                    else:
                        break
                    value = value * 16 + digit
                    position += 1
                    if position - start > 8:
                        return row, 4, field
                value %= max_ind_range
            if text[position] == RETURN and text[position + 1] == NEWLINE:
                position += 1  # a file that went through Windows
            ending = text[position]
            if ending != TAB and ending != NEWLINE:
                return row, (2 if field == 0 else 3 if field <= NUM_DENSE else 4), field
            if (ending == NEWLINE) != (field == NUM_FIELDS - 1):
                return row, 1, field
            if field == 0:
                if position - start != 1 or value > 1:
                    return row, 2, field
                label[row] = value
            elif field <= NUM_DENSE:
                dense[row, field - 1] = value
            else:
                sparse[field - 1 - NUM_DENSE, row] = value
            position += 1
        row += 1
    return row, 0, 0


def assign_ids(
    values_N: np.ndarray,
    table: np.ndarray,
    order: np.ndarray,
    num_known: int,
    ids_N: np.ndarray,
) -> int:
    """Number categories in order of first appearance; to be called through ``compiled``.

    ``table`` has the id of each hash value (-1: none yet), ``order`` the hash value of each of the
    ``num_known`` ids; both are extended. Fills ``ids_N`` and returns the number of ids.
    """
    for position in range(len(values_N)):
        value = values_N[position]
        if table[value] < 0:
            table[value] = num_known
            order[num_known] = value
            num_known += 1
        ids_N[position] = table[value]
    return num_known
