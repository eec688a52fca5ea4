"""From Criteo's text to shuffled, numbered, memory-mapped columns, in four restartable stages.

1. parse: each day's text to hashed integer columns (parallel over days);
2. number: each column's categories, contiguous, by first appearance over all days (over columns);
3. scatter: each training row to a random bucket (over days); 4. permute: within each bucket (over
buckets), which together is a uniformly random order. The last day keeps its order: its first half
is the test split, its second half the validation split, which nothing reads.

Every unit of work writes to offsets known beforehand, so the bytes do not depend on kills or on the
number of processes. Memory: at most about 0.7 GB per process, under 4 GB in all with the number
chosen here. Checksums are computed while the data is written.

Source: facebookresearch/dlrm @ 6d75c84d, data_utils.py. Differs: buckets are small and the shuffle
has a fixed seed.
"""

import hashlib
import math
import os
import shutil
import zlib
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

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
    DATASET,
    DAY_ROWS,
    HEADER_BYTES,
    ROW_BYTES,
    VERSION,
    Manifest,
    Settings,
    create_split,
    open_split,
    read_manifest,
    upgrade,
)
from datamodules.criteo.text import (
    NUM_DENSE,
    NUM_FIELDS,
    NUM_TABLES,
    assign_ids,
    compiled,
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
SHUFFLE_SEED = 20210630
SKETCH = "sketch.npy"
_BUCKET_STREAM, _PERMUTE_STREAM = 1, 2
WHERE = (
    "get it from Criteo AI Lab (criteo-1tb-click-logs-dataset-for-mlperf), 24 files, about 350 GB, "
    "under Criteo's terms of use"
)


@dataclass(frozen=True)
class Work:
    """Directories and settings of one preparation; small, as every worker gets a copy."""

    root: Path
    out: Path
    settings: Settings
    rows: tuple[int, ...] = ()
    """Rows of each day, once all are parsed."""

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


def prepare(
    root: Path,
    out: Path,
    settings: Settings,
    *,
    replace: bool = False,
    processes: int = 0,
    show_progress: bool = False,
) -> Manifest:
    """Prepare a directory, or finish one that a killed run left.

    Args:
        root: Directory with ``day_0`` ... or ``day_0.gz`` ...
        out: The prepared directory.
        settings: Number of days and index range.
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
    if done := read_manifest(out, settings, replace=replace):
        return done
    work = Work(root, out, settings)
    # Before anything is created: the root may be mistyped.
    if lines := missing_days(work):
        raise FileNotFoundError("\n".join(lines))
    if lines := half_unpacked_days(root, work.days):
        raise ValueError("\n".join(lines))
    with preparing(
        out,
        DATASET,
        asdict(settings),
        version=VERSION,
        root=root,
        redo=(changed := changed_units(out, root)),
        upgrade=upgrade,
        show_progress=show_progress,
    ) as preparation:
        if preparation.manifest is None:
            stages = {name.partition("_")[0] for name in read_records(out) if name}
            if changed and stages - {"parse"}:  # the parsed days are used up: begin anew
                shutil.rmtree(work.folder, ignore_errors=True)
            _build(work, preparation, processes or choose_processes(text_bytes(root, work.days)))
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
    """Return one line per day whose text does not fit the compressed file beside it."""
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


def _build(work: Work, preparation: Preparation, processes: int) -> None:
    """Run all stages, each skipping what is done."""
    if preparation.is_new or not work.folder.is_dir():
        # Records are of no use without the intermediate files, nor these without records.
        preparation.discard_records()
        shutil.rmtree(work.folder, ignore_errors=True)
    work.folder.mkdir(exist_ok=True)
    run = partial(preparation.run, processes=processes)
    space = space_needed(work.root, work.days) // len(work.days)
    days = [Unit(f"parse_{day:02d}", day, num_bytes=space) for day in work.days]
    rows = run("parsing days", partial(parse_day, work), days)
    work = Work(work.root, work.out, work.settings, tuple(rows.values()))
    _check_equal_days(work)
    columns = [
        Unit(f"number_{column:02d}", column, (_dictionary(column),)) for column in range(NUM_TABLES)
    ]
    number, drop = partial(number_column, work), partial(_drop_hashes, work)
    sizes = run("numbering columns", number, columns, after=drop)
    num_buckets = _count_buckets(work)
    planned = [Unit(f"plan_{day:02d}", day) for day in work.train_days]
    _create_buckets(work, run("drawing buckets", partial(plan_day, work, num_buckets), planned))
    scattered = [Unit(f"scatter_{day:02d}", day) for day in work.train_days]
    run("scattering days", partial(scatter_day, work), scattered, after=partial(_drop_day, work))
    parts = _last_day_parts(work)
    if preparation.unfinished(parts) == parts:  # else a file that was lost would become zeros
        _create_evaluation_splits(work)
    split = run("splitting the last day", partial(split_last_day, work), parts)
    buckets = [Unit(f"permute_{bucket:05d}", bucket) for bucket in range(num_buckets)]
    blocks = run("permuting buckets", partial(permute_bucket, work), buckets)
    _finish(work, preparation, list(sizes.values()), [*split.values(), *blocks.values()])


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


def _drop_hashes(work: Work, unit: Unit) -> None:
    """Remove a column's hash values, once it has ids."""
    for day in work.days:
        (work.day(day) / f"hash_{unit.item:02d}").unlink(missing_ok=True)


def _drop_day(work: Work, unit: Unit) -> None:
    """Remove a day's columns, once its rows are in their buckets."""
    shutil.rmtree(work.day(unit.item), ignore_errors=True)


def parse_day(work: Work, day: int) -> Done:
    """Stage 1: convert one day's text to columns; results in its rows."""
    source, folder, digest = day_file(work.root, day), work.day(day), hashlib.sha256()
    assert source is not None, "missing days were named before"
    folder.mkdir(exist_ok=True)
    names = ["label", "dense", *(f"hash_{column:02d}" for column in range(NUM_TABLES))]
    num_rows, sketch = 0, np.empty(0, np.uint64)
    with ExitStack() as stack:
        files = [stack.enter_context((folder / name).open("wb")) for name in names]
        for rows in read_day(source, work.settings.max_ind_range, digest=digest):
            num_rows, sketch = num_rows + len(rows.label), extend(sketch, rows)
            for file, values in zip(files, [rows.label, rows.dense, *rows.sparse], strict=True):
                values.tofile(file)
    np.save(folder / SKETCH, sketch)
    return Done(num_rows, [raw_file(source, digest.hexdigest())])


def number_column(work: Work, column: int) -> Done:
    """Stage 2: replace a column's hash values by ids in order of first appearance, over all days.

    As hash values are below ``max_ind_range``, a direct table (160 MB at 40 million) is the whole
    dictionary. Results in the distinct categories and the dictionary's checksum.
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
    path = work.out / _dictionary(column)
    np.save(path, order[:num_known])
    return Done([int(num_known), zlib.crc32(path.read_bytes())])


def _dictionary(column: int) -> str:
    return f"dictionary_{column:02d}.npy"


def scatter_day(work: Work, day: int) -> Done:
    """Stage 3: write a training day's rows to their buckets."""
    counts_DK = _bucket_counts(work)
    # Within a bucket the days follow one another: this day's rows come after those before it.
    starts_K = np.concatenate([[0], counts_DK.sum(0).cumsum()])[:-1] + counts_DK[:day].sum(0)
    num_buckets, read = counts_DK.shape[1], DayReader(work, day)
    file = os.open(_bucket_file(work), os.O_WRONLY)
    try:
        for chunk, start in enumerate(range(0, read.num_rows, CHUNK_ROWS)):
            rows_NF = read(start, start + CHUNK_ROWS)
            bucket_N = _buckets(day, chunk, len(rows_NF), num_buckets)
            # A stable sort keeps rows in order, so the bytes do not depend on the implementation.
            rows_NF = rows_NF[np.argsort(bucket_N, kind="stable")]
            count_K = np.bincount(bucket_N, minlength=num_buckets)
            for bucket, part in enumerate(np.split(rows_NF, count_K.cumsum()[:-1])):
                os.pwrite(file, part.tobytes(), int(starts_K[bucket]) * part.strides[0])
            starts_K += count_K
    finally:
        os.close(file)
    return Done(read.num_rows)


def permute_bucket(work: Work, bucket: int) -> Done:
    """Stage 4: write a bucket's rows in random order to the training split."""
    count_K = _bucket_counts(work).sum(0)
    start, count = int(count_K[:bucket].sum()), int(count_K[bucket])
    offset = start * NUM_FIELDS * 4
    flat = np.fromfile(_bucket_file(work), np.int32, count * NUM_FIELDS, offset=offset)
    order = np.random.default_rng([_PERMUTE_STREAM, SHUFFLE_SEED, bucket]).permutation(count)
    return Done(_store(work.out, "train", start, flat.reshape(-1, NUM_FIELDS)[order]))


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


def _count_buckets(work: Work) -> int:
    return max(1, math.ceil(sum(work.rows[:-1]) / BUCKET_ROWS))


def plan_day(work: Work, num_buckets: int, day: int) -> Done:
    """Draw the buckets of a training day's rows; results in the rows that each bucket gets."""
    count_K, num_rows = np.zeros(num_buckets, np.int64), work.rows[day]
    for chunk, start in enumerate(range(0, num_rows, CHUNK_ROWS)):
        bucket_N = _buckets(day, chunk, min(CHUNK_ROWS, num_rows - start), num_buckets)
        count_K += np.bincount(bucket_N, minlength=num_buckets)
    return Done(count_K.tolist())


def _create_buckets(work: Work, counts: Mapping[str, list[int]]) -> None:
    """Write each day's rows per bucket, and create the files of the training rows."""
    num_rows, plan = sum(work.rows[:-1]), work.folder / "buckets.npy"
    if not plan.is_file():
        with _bucket_file(work).open("wb") as file:
            file.truncate(num_rows * NUM_FIELDS * 4)
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


def split_last_day(work: Work, part: tuple[str, int, int]) -> Done:
    """Copy rows of the last day to their split, in order."""
    split, first, last = part
    day, origin, blocks = DayReader(work, work.days[-1]), _evaluation_rows(work)[split][0], []
    for start in range(first, last, CHUNK_ROWS):
        rows_NF = day(start, min(start + CHUNK_ROWS, last))
        blocks += _store(work.out, split, start - origin, rows_NF)
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


def _finish(
    work: Work, preparation: Preparation, sizes: list[list[int]], blocks: list[list[Block]]
) -> None:
    """Write checksums and manifest, and remove everything intermediate."""
    checksums = [block for part in blocks for block in part]
    for column, (_, checksum) in enumerate(sizes):
        name = _dictionary(column)
        checksums.append((name, 0, (work.out / name).stat().st_size, checksum))
    write_json(work.out / CHECKSUMS, checksums)
    *train, last = work.rows
    rows = {"train": sum(train), "test": math.ceil(last / 2), "validation": last // 2}
    preparation.finish({"rows": rows, "table_sizes": [size for size, _ in sizes]})
    shutil.rmtree(work.folder, ignore_errors=True)
