"""Stages that both preparations of Criteo's text go through, in restartable units of work.

1. parse each day's text to hashed integer columns (parallel over days); 2. number the categories;
3. scatter each training row to a bucket of the output (over days); 4. put each bucket's rows in
order (over buckets). The last day keeps its order: its first half is the test split, its second
half the validation split, which nothing reads. ``prepare`` (DLRM) and ``multi_hot.prepare``
(DLRM-DCNv2) hold the stages in which they differ.

Every unit of work writes to offsets known beforehand, so the bytes do not depend on kills or on the
number of processes. Checksums are computed while the data is written.
"""

import hashlib
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from dataclasses import replace as changed_copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.common.atomic import atomic_file, write_json
from datamodules.common.preparation import Done, Preparation, Unit, preparing
from datamodules.common.process_pool import processes_for
from datamodules.common.reading import entries
from datamodules.common.records import changed_units, raw_file, read_records
from datamodules.criteo.checksums import CHECKSUMS, Block
from datamodules.criteo.sketch import equal_days, extend
from datamodules.criteo.store import (
    COLUMNS,
    DAY_ROWS,
    HEADER_BYTES,
    ROW_BYTES,
    Manifest,
    create_split,
    open_split,
    read_manifest,
    upgrade,
)
from datamodules.criteo.text import (
    NUM_DENSE,
    NUM_FIELDS,
    NUM_TABLES,
    day_file,
    half_unpacked,
    read_day,
)

WORKER_BYTES = 800_000_000
ALL_BYTES = 4_000_000_000  # limit for all processes, this one (one more share) included
SERIAL_BYTES = 1_000_000_000  # for less text, starting a process costs more than the work
TEXT_BYTES_PER_ROW = 230  # about, in the real logs; to estimate the space needed
CHUNK_ROWS = 1 << 19
SPLIT_CHUNKS = 16  # of the last day that one unit of work copies
BUCKET_ROWS = 1 << 20
SKETCH = "sketch.npy"
WHERE = (
    "get it from Criteo AI Lab (criteo-1tb-click-logs-dataset-for-mlperf), 24 files, about 350 GB, "
    "under Criteo's terms of use"
)


@dataclass(frozen=True)
class Work:
    """Directories and settings of one preparation; small, as every worker gets a copy."""

    root: Path
    out: Path
    settings: Any  # of either kind
    rows: tuple[int, ...] = ()
    """Rows of each day, once all are parsed."""
    table_sizes: tuple[int, ...] = ()
    """Rows of each embedding table, once all categories are numbered."""

    @property
    def folder(self) -> Path:
        """Directory of everything intermediate."""
        return self.out / "work"

    @property
    def days(self) -> range:
        return range(self.settings.num_days)

    @property
    def train_days(self) -> range:
        return range(self.settings.num_days - 1)

    def day(self, day: int) -> Path:
        """Directory of a day's intermediate columns."""
        return self.folder / f"day_{day:02d}"

    def column(self, day: int, name: str, dtype: type, width: int = 1) -> np.ndarray:
        """Map an intermediate column of a day for reading."""
        shape = (self.rows[day], width) if width > 1 else (self.rows[day],)
        return np.memmap(self.day(day) / name, dtype, "r", shape=shape)


Build = Callable[[Work, Preparation, int], None]
"""What makes the columns: the work, where to record it, and a number of processes."""


def run_stages(
    work: Work,
    build: Build,
    *,
    replace: bool = False,
    processes: int = 0,
    show_progress: bool = False,
) -> Manifest:
    """Prepare a directory, or finish one that a killed run left.

    Args:
        work: Directories and settings.
        build: Makes the columns from the text.
        replace: Prepare a directory of another version again instead of raising.
        processes: Worker processes; 0 chooses by cores and memory.
        show_progress: Draw progress bars.

    Returns:
        Its manifest.

    Raises:
        FileNotFoundError: If days are missing.
        ValueError: If a day's text has another format, or the directory other settings or
            another version.
    """
    root, out, settings = work.root, work.out, work.settings
    if done := read_manifest(out, settings, replace=replace):
        return done
    # Before anything is created: the root may be mistyped.
    if lines := missing_days(work):
        raise FileNotFoundError("\n".join(lines))
    if lines := half_unpacked_days(root, work.days):
        raise ValueError("\n".join(lines))
    with preparing(
        out,
        settings.dataset,
        asdict(settings),
        version=settings.version,
        root=root,
        redo=(changed := changed_units(out, root)),
        upgrade=upgrade,
        show_progress=show_progress,
    ) as preparation:
        if preparation.manifest is None:
            stages = {name.partition("_")[0] for name in read_records(out) if name}
            if changed and stages - {"parse"}:  # the parsed days are used up: begin anew
                shutil.rmtree(work.folder, ignore_errors=True)
            build(work, preparation, processes or choose_processes(text_bytes(root, work.days)))
    manifest = read_manifest(out, settings)
    assert manifest is not None
    return manifest


def unparsed_days(work: Work) -> list[int]:
    """Return the days whose text is still needed."""
    done = read_records(work.out) if work.folder.is_dir() else {}
    return [day for day in work.days if f"parse_{day:02d}" not in done]


def missing_days(work: Work) -> list[str]:
    """Return one line that names the missing days, or that one day is too few; or none."""
    root = work.root
    if work.settings.num_days < 2:
        return [f"{root} has one day, but the last of at least two is the evaluation's"]
    missing = [f"day_{day}" for day in unparsed_days(work) if day_file(root, day) is None]
    if not missing:
        return []
    if not any(path.name.startswith("day_") for path in entries(root)):
        return [f"{root} contains no day of the click logs; {WHERE}"]
    return [f"{root}: {', '.join(missing)} (or .gz) missing; {WHERE}"]


def half_unpacked_days(root: Path, days: Iterable[int]) -> list[str]:
    """Return one line per day whose text does not fit the compressed file next to it."""
    return [line for day in days if (line := half_unpacked(root, day))]


def choose_processes(num_bytes: int) -> int:
    """Return as many processes for this amount of data as cores and memory allow."""
    if num_bytes < SERIAL_BYTES:
        return 1
    return min(processes_for(NUM_TABLES, WORKER_BYTES), ALL_BYTES // WORKER_BYTES - 1)


def text_bytes(root: Path, days: Iterable[int]) -> int:
    """Estimate the bytes of text from file sizes; compressed files count threefold."""
    files = [path for day in days if (path := day_file(root, day))]
    return sum(path.stat().st_size * (3 if path.suffix == ".gz" else 1) for path in files)


def space_needed(root: Path, days: Iterable[int]) -> int:
    """Estimate the bytes of intermediate and final columns, which exist at the same time."""
    rows = text_bytes(root, days) / TEXT_BYTES_PER_ROW
    return int(rows * (ROW_BYTES + 4 * NUM_FIELDS))


def parse_days(
    work: Work, preparation: Preparation, parse: Callable[[Work, int], Done], processes: int
) -> Work:
    """Run stage 1, and return the work with each day's rows."""
    if preparation.is_new or not work.folder.is_dir():
        # Records are of no use without the intermediate files, nor these without records.
        preparation.discard_records()
        shutil.rmtree(work.folder, ignore_errors=True)
    work.folder.mkdir(exist_ok=True)
    space = space_needed(work.root, work.days) // len(work.days)
    days = [Unit(f"parse_{day:02d}", day, num_bytes=space) for day in work.days]
    rows = preparation.run("parsing days", partial(parse, work), days, processes=processes)
    work = changed_copy(work, rows=tuple(rows.values()))
    _check_equal_days(work)
    return work


def _check_equal_days(work: Work) -> None:
    """Raise if two days share rows: the model would be tested on what it was trained on."""
    if work.rows == DAY_ROWS:
        return  # the published logs, whose rows are what they are
    paths = {day: work.day(day) / SKETCH for day in work.days}
    sketches = {day: np.load(path) for day, path in paths.items() if path.is_file()}
    if lines := equal_days(sketches):
        raise ValueError(
            "\n".join(
                f"{work.root}/{line}; replace one of them and prepare again" for line in lines
            )
        )


def drop_hashes(work: Work, unit: Unit) -> None:
    """Remove a column's hash values, once it has ids."""
    for day in work.days:
        (work.day(day) / f"hash_{unit.item:02d}").unlink(missing_ok=True)


def drop_day(work: Work, unit: Unit) -> None:
    """Remove a day's columns, once its rows are in their buckets."""
    shutil.rmtree(work.day(unit.item), ignore_errors=True)


def parse_day(work: Work, day: int, max_ind_range: int, *, keep_negative: bool = False) -> Done:
    """Convert one day's text to columns; results in its rows."""
    source, folder, digest = day_file(work.root, day), work.day(day), hashlib.sha256()
    assert source is not None, "missing days were named before"
    folder.mkdir(exist_ok=True)
    names = ["label", "dense", *(f"hash_{column:02d}" for column in range(NUM_TABLES))]
    num_rows, sketch = 0, np.empty(0, np.uint64)
    with ExitStack() as stack:
        files = [stack.enter_context((folder / name).open("wb")) for name in names]
        for rows in read_day(source, max_ind_range, digest=digest, keep_negative=keep_negative):
            num_rows, sketch = num_rows + len(rows.label), extend(sketch, rows)
            for file, values in zip(files, [rows.label, rows.dense, *rows.sparse], strict=True):
                values.tofile(file)
    np.save(folder / SKETCH, sketch)
    return Done(num_rows, [raw_file(source, digest.hexdigest())])


def dictionary(column: int) -> str:
    """Name the file whose element i is the text's category that has number i."""
    return f"dictionary_{column:02d}.npy"


def scatter_rows(
    work: Work,
    day: int,
    read: Callable[[int, int], np.ndarray],
    bucket_of: Callable[..., np.ndarray],
) -> Done:
    """Write a training day's rows to their buckets.

    Args:
        work: Directories and rows.
        day: The day.
        read: First and last row -> int32 (N, fields).
        bucket_of: Number of the chunk, its first row and its rows -> (N,) bucket of each.

    Returns:
        The day's rows, as the result.
    """
    counts_DK = _bucket_counts(work)
    # Within a bucket the days follow one another: this day's rows come after those before it.
    starts_K = np.concatenate([[0], counts_DK.sum(0).cumsum()])[:-1] + counts_DK[:day].sum(0)
    num_buckets, num_rows = counts_DK.shape[1], work.rows[day]
    file = os.open(_bucket_file(work), os.O_WRONLY)
    try:
        for chunk, start in enumerate(range(0, num_rows, CHUNK_ROWS)):
            rows_NF = read(start, start + CHUNK_ROWS)
            bucket_N = bucket_of(chunk, start, len(rows_NF))
            # A stable sort keeps rows in order, so the bytes do not depend on the implementation.
            rows_NF = rows_NF[np.argsort(bucket_N, kind="stable")]
            count_K = np.bincount(bucket_N, minlength=num_buckets)
            for bucket, part in enumerate(np.split(rows_NF, count_K.cumsum()[:-1])):
                os.pwrite(file, part.tobytes(), int(starts_K[bucket]) * part.strides[0])
            starts_K += count_K
    finally:
        os.close(file)
    return Done(num_rows)


def read_bucket(work: Work, bucket: int, num_fields: int = NUM_FIELDS) -> tuple[int, np.ndarray]:
    """Return the first training row of a bucket, and its rows as they came: int32 (N, fields)."""
    count_K = _bucket_counts(work).sum(0)
    start, count = int(count_K[:bucket].sum()), int(count_K[bucket])
    offset = start * num_fields * 4
    flat = np.fromfile(_bucket_file(work), np.int32, count * num_fields, offset=offset)
    return start, flat.reshape(-1, num_fields)


class DayReader:
    """Rows of a parsed and numbered day."""

    def __init__(self, work: Work, day: int) -> None:
        self.num_rows = work.rows[day]
        self._label = work.column(day, "label", np.uint8)
        self._dense = work.column(day, "dense", np.int32, NUM_DENSE)
        self._ids = [work.column(day, f"id_{j:02d}", np.int32) for j in range(NUM_TABLES)]

    def __call__(self, start: int, stop: int) -> np.ndarray:
        """Return rows as int32 (N, 40), fields in the text's order; stops at the day's end."""
        label_N = self._label[start:stop]
        rows_NF = np.empty((len(label_N), NUM_FIELDS), np.int32)
        rows_NF[:, 0], rows_NF[:, 1 : 1 + NUM_DENSE] = label_N, self._dense[start:stop]
        for column, ids_N in enumerate(self._ids):
            rows_NF[:, 1 + NUM_DENSE + column] = ids_N[start:stop]
        return rows_NF


def store_rows(out: Path, split: str, start: int, rows_NF: np.ndarray) -> list[Block]:
    """Write rows to a split's three files and return the checksum of each piece."""
    files, first, blocks = open_split(out, split, writable=True), 0, []
    for name, (dtype, shape) in COLUMNS.items():
        width = math.prod(shape)
        values = np.ascontiguousarray(rows_NF[:, first : first + width], dtype)
        files[name][start : start + len(values)] = values.reshape(-1, *shape)
        first += width
        row_bytes = width * values.itemsize
        offset = HEADER_BYTES + start * row_bytes
        blocks.append((f"{split}_{name}.npy", offset, values.nbytes, zlib.crc32(values.data)))
    return blocks


def count_buckets(work: Work) -> int:
    """Return into how many buckets the training rows go."""
    return max(1, math.ceil(sum(work.rows[:-1]) / BUCKET_ROWS))


def create_buckets(
    work: Work, counts: Mapping[str, list[int]], num_fields: int = NUM_FIELDS
) -> None:
    """Write each day's rows per bucket, and create the files of the training rows."""
    num_rows, plan = sum(work.rows[:-1]), work.folder / "buckets.npy"
    if not plan.is_file():
        with _bucket_file(work).open("wb") as file:
            file.truncate(num_rows * num_fields * 4)
        with atomic_file(plan) as file:
            np.save(file, np.array([*counts.values()], np.int64))
    create_split(work.out, "train", num_rows)


def _bucket_counts(work: Work) -> np.ndarray:
    """Return counts_DK: int64 rows that each training day sends to each bucket."""
    return np.load(work.folder / "buckets.npy")


def _bucket_file(work: Work) -> Path:
    return work.folder / "buckets.bin"


def _evaluation_rows(work: Work) -> dict[str, tuple[int, int]]:
    """Return first and last row of each split of the last day: the first half, rounded up, test."""
    num_rows = work.rows[-1]
    half = math.ceil(num_rows / 2)
    return {"test": (0, half), "validation": (half, num_rows)}


def split_evaluation(
    work: Work, preparation: Preparation, reader: Callable[[Work, int], Any], processes: int
) -> list[list[Block]]:
    """Write the last day's splits, and return the checksums of their pieces."""
    parts = _last_day_parts(work)
    if preparation.unfinished(parts) == parts:  # else a file that was lost would become zeros
        _create_evaluation_splits(work)
    job = partial(split_last_day, work, reader)
    return list(preparation.run("splitting the last day", job, parts, processes=processes).values())


def _create_evaluation_splits(work: Work) -> None:
    """Create the files of the last day's rows, whose test labels are checked before."""
    _check_labels(work, _evaluation_rows(work)["test"][1])
    for split, (first, last) in _evaluation_rows(work).items():
        create_split(work.out, split, last - first)


def _last_day_parts(work: Work) -> list[Unit]:
    rows, step = _evaluation_rows(work), SPLIT_CHUNKS * CHUNK_ROWS
    return [
        Unit(f"split_{split}_{number:04d}", (split, start, min(start + step, last)))
        for split, (first, last) in rows.items()
        for number, start in enumerate(range(first, last, step))
    ]


def split_last_day(
    work: Work, reader: Callable[[Work, int], Any], part: tuple[str, int, int]
) -> Done:
    """Copy rows of the last day to their split, in order."""
    split, first, last = part
    day, origin, blocks = reader(work, work.days[-1]), _evaluation_rows(work)[split][0], []
    for start in range(first, last, CHUNK_ROWS):
        rows_NF = day(start, min(start + CHUNK_ROWS, last))
        blocks += store_rows(work.out, split, start - origin, rows_NF)
    return Done(blocks)


def _check_labels(work: Work, half: int) -> None:
    """Raise if the area under the curve of the test rows is not defined."""
    label_N = work.column(work.days[-1], "label", np.uint8)[:half]
    if half and label_N.min() == label_N.max():
        name = f"{work.root}/day_{work.days[-1]}"
        raise ValueError(
            f"{name}: all {half:,} rows of its first half, which are the test rows, have label "
            f"{label_N[0]}; the metric needs both labels, replace this day"
        )


def finish(
    work: Work, preparation: Preparation, dictionaries: list[list[int]], blocks: list[list[Block]]
) -> None:
    """Write checksums and manifest, and remove everything intermediate.

    Args:
        work: Directories, rows and table sizes.
        preparation: Where the manifest goes.
        dictionaries: Of each column, the distinct categories and the dictionary's CRC-32.
        blocks: Checksums of the pieces of all splits.
    """
    checksums = [block for part in blocks for block in part]
    for column, (_, checksum) in enumerate(dictionaries):
        name = dictionary(column)
        checksums.append((name, 0, (work.out / name).stat().st_size, checksum))
    write_json(work.out / CHECKSUMS, checksums)
    *train, last = work.rows
    rows = {"train": sum(train), "test": math.ceil(last / 2), "validation": last // 2}
    preparation.finish({"rows": rows, "table_sizes": list(work.table_sizes)})
    shutil.rmtree(work.folder, ignore_errors=True)
