"""From Criteo's text to shuffled, numbered, memory-mapped columns, in four restartable stages.

1. parse: each day's text to hashed integer columns (parallel over days);
2. number: each column's categories, contiguous, by first appearance over all days (over columns);
3. scatter: each training row to a random bucket (over days); 4. permute: within each bucket (over
buckets), which together is a uniformly random order. The last day keeps its order: its first half
is the test split, its second half the validation split, which nothing reads.

A unit of work that is done leaves a marker, so a killed run goes on with the next one; every unit
writes to places known beforehand, so the bytes do not depend on kills or on the number of
processes. Memory: at most about 0.7 GB per process, under 4 GB with as many as are chosen here.
Checksums are taken of what is written, as it is written.

Source: facebookresearch/dlrm @ 6d75c84d, data_utils.py. Differs: buckets are small and the shuffle
has a fixed seed.
"""

import json
import math
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.common.process_pool import outcomes, processes_for
from datamodules.criteo.checksums import CHECKSUMS, Block
from datamodules.criteo.store import (
    COLUMNS,
    HEADER_BYTES,
    Manifest,
    Settings,
    check_settings,
    create_split,
    open_split,
    read_manifest,
    write_json,
    write_manifest,
)
from datamodules.criteo.text import (
    NUM_DENSE,
    NUM_FIELDS,
    NUM_TABLES,
    assign_ids,
    compiled,
    day_file,
    read_day,
)

WORKER_BYTES = 800_000_000
ALL_BYTES = 4_000_000_000  # what preparation keeps below, this process (one more share) included
SERIAL_BYTES = 1_000_000_000  # below this much text a process's start costs more than the work
CHUNK_ROWS = 1 << 19
BUCKET_ROWS = 1 << 20
SHUFFLE_SEED = 20210630
_BUCKET_STREAM, _PERMUTE_STREAM = 1, 2
WHERE = (
    "get it from Criteo AI Lab (criteo-1tb-click-logs-dataset-for-mlperf), 24 files, about 350 GB, "
    "under Criteo's terms of use"
)


@dataclass(frozen=True)
class Work:
    """Folders and settings of one preparation; small, as it travels to every worker."""

    root: Path
    out: Path
    settings: Settings

    @property
    def days(self) -> range:
        """All days."""
        return range(self.settings.num_days)

    @property
    def train_days(self) -> range:
        """All days but the last."""
        return range(self.settings.num_days - 1)

    @property
    def unparsed_days(self) -> list[int]:
        """Days whose text is still needed."""
        return [day for day in self.days if not self.marker("parse", day).is_file()]

    def day(self, day: int) -> Path:
        """Folder of a day's intermediate columns."""
        return self.out / "work" / f"day_{day:02d}"

    def marker(self, stage: str, unit: int) -> Path:
        """The file that says a unit of work is done."""
        return self.out / "work" / f"{stage}_{unit:05d}.done"

    def rows(self, day: int) -> int:
        """Rows of a parsed day."""
        return int(json.loads(self.marker("parse", day).read_text()))

    def column(self, day: int, name: str, dtype: type, width: int = 1) -> np.ndarray:
        """An intermediate column of a day, mapped for reading."""
        path = self.day(day) / name
        shape = (self.rows(day), width) if width > 1 else (self.rows(day),)
        return np.memmap(path, dtype, "r", shape=shape)


def prepare(
    root: Path, out: Path, settings: Settings, *, processes: int = 0, show_progress: bool = False
) -> Manifest:
    """Prepare a directory, or finish one that a killed run left.

    Args:
        root: Directory with ``day_0`` ... or ``day_0.gz`` ...
        out: The prepared directory.
        settings: Number of days and index range.
        processes: Worker processes; 0 chooses by cores and memory.
        show_progress: Draw progress bars.

    Returns:
        Its manifest.

    Raises:
        FileNotFoundError: If days are missing.
        ValueError: If a day's text has another format, or the directory other settings.
    """
    if done := read_manifest(out, settings):
        return done
    from filelock import FileLock

    work = Work(root, out, settings)
    # Before anything is made: the root may be a typing error.
    if lines := missing_days(root, work.unparsed_days):
        raise FileNotFoundError("\n".join(lines))
    (out / "work").mkdir(parents=True, exist_ok=True)
    with FileLock(out / "work.lock"):
        if done := read_manifest(out, settings):
            return done
        return _build(work, processes, show_progress)


def missing_days(root: Path, days: Sequence[int]) -> list[str]:
    """Return one line that names the missing days, or none."""
    missing = [f"day_{day}" for day in days if day_file(root, day) is None]
    if not missing:
        return []
    if not any(root.glob("day_*")):
        return [f"{root} holds no day of the click logs; {WHERE}"]
    return [f"{root}: {', '.join(missing)} (or .gz) missing; {WHERE}"]


def choose_processes(num_bytes: int) -> int:
    """Return as many processes for this amount of data as cores and memory allow."""
    if num_bytes < SERIAL_BYTES:
        return 1
    return min(processes_for(NUM_TABLES, WORKER_BYTES), ALL_BYTES // WORKER_BYTES - 1)


def text_bytes(root: Path, num_days: int) -> int:
    """Estimate the bytes of text from file sizes; compressed files count threefold."""
    files = [path for day in range(num_days) if (path := day_file(root, day))]
    return sum(path.stat().st_size * (3 if path.suffix == ".gz" else 1) for path in files)


def _build(work: Work, processes: int, show_progress: bool) -> Manifest:
    """Run all stages, each skipping what is done."""
    note = work.out / "work" / "settings.json"
    if note.is_file():
        check_settings(work.out, json.loads(note.read_text()), work.settings)
    write_json(note, vars(work.settings))
    processes = processes or choose_processes(text_bytes(work.root, work.settings.num_days))
    run = partial(_stage, work, processes=processes, show_progress=show_progress)
    run("parse", parse_day, work.days)
    run("number", number_column, range(NUM_TABLES))
    _plan_buckets(work)
    run("scatter", scatter_day, work.train_days)
    _split_last_day(work)
    run("permute", permute_bucket, range(len(_bucket_counts(work)[0])))
    return _finish(work)


def _stage(
    work: Work,
    stage: str,
    job: Callable[[Work, int], Any],
    units: Sequence[int],
    *,
    processes: int,
    show_progress: bool,
) -> None:
    """Run a stage's unfinished units and mark each as done."""
    todo = [unit for unit in units if not work.marker(stage, unit).is_file()]
    runner = partial(_unit, work, stage, job)
    workers = min(processes, max(1, len(todo)))
    results = outcomes(runner, todo, workers, stage, show_progress=show_progress)
    if problems := [result for result in results if isinstance(result, str)]:
        raise ValueError("\n".join(sorted(problems)))


def _unit(work: Work, stage: str, job: Callable[[Work, int], Any], unit: int) -> None:
    """Run one unit of a stage; its marker comes last."""
    write_json(work.marker(stage, unit), job(work, unit))
    if stage == "number":
        for day in work.days:
            (work.day(day) / f"hash_{unit:02d}").unlink(missing_ok=True)
    if stage == "scatter":
        shutil.rmtree(work.day(unit), ignore_errors=True)


def parse_day(work: Work, day: int) -> int:
    """Stage 1: convert one day's text to columns; returns its rows."""
    source, folder = day_file(work.root, day), work.day(day)
    assert source is not None, "missing days were refused before"
    folder.mkdir(exist_ok=True)
    names = ["label", "dense", *(f"hash_{column:02d}" for column in range(NUM_TABLES))]
    files = [(folder / name).open("wb") for name in names]
    num_rows = 0
    try:
        for rows in read_day(source, work.settings.max_ind_range):
            num_rows += len(rows.label)
            for file, values in zip(files, [rows.label, rows.dense, *rows.sparse], strict=True):
                values.tofile(file)
    finally:
        for file in files:
            file.close()
    return num_rows


def number_column(work: Work, column: int) -> list[int]:
    """Stage 2: replace a column's hash values by ids in order of first appearance, over all days.

    As hash values are below ``max_ind_range``, a direct table (160 MB at 40 million) is the whole
    dictionary. Returns the distinct categories and the dictionary's checksum.
    """
    table = np.full(work.settings.max_ind_range, -1, np.int32)
    order = np.empty(work.settings.max_ind_range, np.int32)
    num_known, assign = 0, compiled(assign_ids)
    for day in work.days:
        hashes_N = work.column(day, f"hash_{column:02d}", np.int32)
        with (work.day(day) / f"id_{column:02d}").open("wb") as file:
            for start in range(0, len(hashes_N), CHUNK_ROWS):
                chunk = np.array(hashes_N[start : start + CHUNK_ROWS])
                ids = np.empty_like(chunk)
                num_known = assign(chunk, table, order, num_known, ids)
                ids.tofile(file)
    # Element i is the hash value with id i: what raw text needs to be read with these tables.
    path = work.out / f"dictionary_{column:02d}.npy"
    np.save(path, order[:num_known])
    return [int(num_known), zlib.crc32(path.read_bytes())]


def scatter_day(work: Work, day: int) -> int:
    """Stage 3: write a training day's rows to their buckets; returns their number."""
    counts_DK = _bucket_counts(work)
    starts_K = np.concatenate([[0], counts_DK.sum(0).cumsum()])[:-1] + counts_DK[:day].sum(0)
    num_buckets, read = counts_DK.shape[1], DayReader(work, day)
    file = os.open(_bucket_file(work), os.O_WRONLY)
    try:
        for chunk, start in enumerate(range(0, read.num_rows, CHUNK_ROWS)):
            rows_NF = read(start, start + CHUNK_ROWS)
            bucket_N = _buckets(day, chunk, len(rows_NF), num_buckets)
            rows_NF = rows_NF[np.argsort(bucket_N, kind="stable")]
            count_K = np.bincount(bucket_N, minlength=num_buckets)
            for bucket, part in enumerate(np.split(rows_NF, count_K.cumsum()[:-1])):
                os.pwrite(file, part.tobytes(), int(starts_K[bucket]) * part.strides[0])
            starts_K += count_K
    finally:
        os.close(file)
    return read.num_rows


def permute_bucket(work: Work, bucket: int) -> list[Block]:
    """Stage 4: write a bucket's rows in random order to the training split; returns checksums."""
    count_K = _bucket_counts(work).sum(0)
    start, count = int(count_K[:bucket].sum()), int(count_K[bucket])
    offset = start * NUM_FIELDS * 4
    flat = np.fromfile(_bucket_file(work), np.int32, count * NUM_FIELDS, offset=offset)
    order = np.random.default_rng([_PERMUTE_STREAM, SHUFFLE_SEED, bucket]).permutation(count)
    return _store(work.out, "train", start, flat.reshape(-1, NUM_FIELDS)[order])


class DayReader:
    """Rows of a parsed and numbered day."""

    def __init__(self, work: Work, day: int) -> None:
        self.num_rows = work.rows(day)
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


def _store(out: Path, split: str, start: int, rows_NF: np.ndarray) -> list[Block]:
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


def _buckets(day: int, chunk: int, num_rows: int, num_buckets: int) -> np.ndarray:
    """Draw the bucket of each row of a chunk: int32, a function of day and chunk."""
    rng = np.random.default_rng([_BUCKET_STREAM, SHUFFLE_SEED, day, chunk])
    return rng.integers(num_buckets, size=num_rows, dtype=np.int32)


def _plan_buckets(work: Work) -> None:
    """Count the rows of each day per bucket, and create the files."""
    rows_D = [work.rows(day) for day in work.train_days]
    num_buckets = max(1, math.ceil(sum(rows_D) / BUCKET_ROWS))
    plan = work.out / "work" / "buckets.npy"
    if not plan.is_file():
        counts_DK = np.zeros((len(rows_D), num_buckets), np.int64)
        for day, num_rows in enumerate(rows_D):
            for chunk, start in enumerate(range(0, num_rows, CHUNK_ROWS)):
                bucket_N = _buckets(day, chunk, min(CHUNK_ROWS, num_rows - start), num_buckets)
                counts_DK[day] += np.bincount(bucket_N, minlength=num_buckets)
        fresh = plan.with_name("fresh.npy")
        np.save(fresh, counts_DK)
        with _bucket_file(work).open("wb") as file:
            file.truncate(sum(rows_D) * NUM_FIELDS * 4)
        os.replace(fresh, plan)
    create_split(work.out, "train", sum(rows_D))


def _bucket_counts(work: Work) -> np.ndarray:
    """Return counts_DK: int64 rows that each training day sends to each bucket."""
    return np.load(work.out / "work" / "buckets.npy")


def _bucket_file(work: Work) -> Path:
    return work.out / "work" / "buckets.bin"


def _split_last_day(work: Work) -> None:
    """Copy the last day in order: first half, rounded up, test; the rest validation."""
    marker = work.marker("split", 0)
    if marker.is_file():
        return
    day = DayReader(work, work.days[-1])
    half, blocks = math.ceil(day.num_rows / 2), []
    for split, first, last in (("test", 0, half), ("validation", half, day.num_rows)):
        create_split(work.out, split, last - first)
        for start in range(first, last, CHUNK_ROWS):
            rows_NF = day(start, min(start + CHUNK_ROWS, last))
            blocks += _store(work.out, split, start - first, rows_NF)
    write_json(marker, blocks)


def _finish(work: Work) -> Manifest:
    """Write the manifest and remove everything intermediate."""
    last = work.rows(work.days[-1])
    rows = {
        "train": sum(work.rows(day) for day in work.train_days),
        "test": math.ceil(last / 2),
        "validation": last // 2,
    }
    known = [json.loads(work.marker("number", j).read_text()) for j in range(NUM_TABLES)]
    manifest = Manifest(work.settings, rows, tuple(size for size, _ in known))
    blocks = json.loads(work.marker("split", 0).read_text())
    for bucket in range(len(_bucket_counts(work)[0])):
        blocks += json.loads(work.marker("permute", bucket).read_text())
    for column, (_, checksum) in enumerate(known):
        path = work.out / f"dictionary_{column:02d}.npy"
        blocks.append((path.name, 0, path.stat().st_size, checksum))
    write_json(work.out / CHECKSUMS, blocks)
    write_manifest(work.out, manifest)
    shutil.rmtree(work.out / "work", ignore_errors=True)
    return manifest
