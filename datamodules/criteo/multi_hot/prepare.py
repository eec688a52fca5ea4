"""From Criteo's text to numbered columns in the reference's fixed order, and bags of ids.

Differs from DLRM's preparation: categories are numbered by their own 32 bits, from 2 on; the order
is one shuffle with a fixed seed; training ids pass through float32, as the reference shuffles them
in an array of that type, and are then taken modulo the most rows of a table. Memory: 0.7 GB per
process; numbering the largest columns takes 4.6 GB each, drawing the order 4 bytes per training
row (16.8 GB).

Source: mlcommons/training @ aa344c7, recommendation_v2/torchrec_dlrm, scripts/process_*.sh;
torchrec 1.0.0, datasets/criteo.py.
"""

from dataclasses import replace as changed_copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.common.preparation import Done, Preparation, Unit
from datamodules.common.process_pool import processes_for
from datamodules.criteo import stages
from datamodules.criteo.multi_hot.bags import FILE, checksum, file_bytes, write_bags
from datamodules.criteo.multi_hot.numbering import Numbering
from datamodules.criteo.multi_hot.order import write_positions
from datamodules.criteo.stages import DayReader, Work, dictionary, parse_day, store_rows
from datamodules.criteo.store import Manifest, MultiHotSettings
from datamodules.criteo.text import NUM_FIELDS, NUM_TABLES

NUMBERING_BYTES = 4_600_000_000  # of the column with the most categories
FIRST_CATEGORY = NUM_FIELDS - NUM_TABLES
PLACED_FIELDS = NUM_FIELDS + 1
ALL_BITS = 2**32


def prepare(root: Path, out: Path, settings: MultiHotSettings, **options: Any) -> Manifest:
    """Prepare a directory, or finish one that a killed run left.

    Args:
        root: Directory with ``day_0`` ... or ``day_0.gz`` ...
        out: The prepared directory.
        settings: Number of days and most rows of a table.
        **options: ``replace``, ``processes`` and ``show_progress`` of ``stages.run_stages``.

    Returns:
        Its manifest.

    Raises:
        FileNotFoundError: If days are missing.
        ValueError: If a day's text has another format, or the directory other settings or
            another version.
    """
    return stages.run_stages(Work(root, out, settings), _build, **options)


def _build(work: Work, preparation: Preparation, processes: int) -> None:
    """Run all stages, each skipping what is done."""
    run = partial(preparation.run, processes=processes)
    work = stages.parse_days(work, preparation, _parse, processes)
    columns = [
        Unit(f"number_{column:02d}", column, (dictionary(column),)) for column in range(NUM_TABLES)
    ]
    few = min(processes, processes_for(NUM_TABLES, NUMBERING_BYTES)) if processes > 1 else 1
    number, drop = partial(number_column, work), partial(stages.drop_hashes, work)
    sizes = preparation.run("numbering columns", number, columns, processes=few, after=drop)
    most = work.settings.max_rows
    work = changed_copy(work, table_sizes=tuple(min(size, most) for size, _ in sizes.values()))
    drawn = [
        Unit("bags", "bags", (FILE,), num_bytes=file_bytes(work.table_sizes)),
        Unit("order", "order"),
    ]
    results = run("drawing bags and the order", partial(draw, work), drawn)
    num_buckets = stages.count_buckets(work)
    planned = [Unit(f"plan_{day:02d}", day) for day in work.train_days]
    counts = run("planning days", partial(plan_day, work), planned)
    stages.create_buckets(work, counts, PLACED_FIELDS)
    scattered = [Unit(f"scatter_{day:02d}", day) for day in work.train_days]
    drop_day = partial(stages.drop_day, work)
    run("scattering days", partial(scatter_day, work), scattered, after=drop_day)
    split = stages.split_evaluation(work, preparation, CappedRows, processes)
    buckets = [Unit(f"permute_{bucket:05d}", bucket) for bucket in range(num_buckets)]
    blocks = run("ordering buckets", partial(order_bucket, work), buckets)
    bags = [(FILE, 0, (work.out / FILE).stat().st_size, results["bags"])]
    stages.finish(work, preparation, list(sizes.values()), [bags, *split, *blocks.values()])


def _parse(work: Work, day: int) -> Done:
    return parse_day(work, day, ALL_BITS, keep_negative=True)


def number_column(work: Work, column: int) -> Done:
    """Replace a column's hash values by numbers in order of first appearance, over all days.

    Results in the distinct categories and the dictionary's checksum.
    """
    number = Numbering()
    for day in work.days:
        values_N = work.column(day, f"hash_{column:02d}", np.uint32)
        with (work.day(day) / f"id_{column:02d}").open("wb") as file:
            for start in range(0, len(values_N), stages.CHUNK_ROWS):
                number(np.array(values_N[start : start + stages.CHUNK_ROWS])).tofile(file)
    # Element i is the category of number i + 2: what raw text needs to be read with these tables.
    path = work.out / dictionary(column)
    np.save(path, number.known())
    return Done([number.num_known, checksum(path)])


def draw(work: Work, what: str) -> Done:
    """Draw the bags, which result in their checksum, or the training rows' order."""
    if what == "bags":
        return Done(write_bags(work.out / FILE, work.table_sizes))
    days = {day: work.rows[day] for day in work.train_days}
    write_positions({day: _places(work, day) for day in days}, days)
    return Done(sum(days.values()))


def plan_day(work: Work, day: int) -> Done:
    """Count the rows that a training day sends to each bucket."""
    count_K = np.zeros(stages.count_buckets(work), np.int64)
    places_N = np.memmap(_places(work, day), np.uint32, "r")
    for start in range(0, len(places_N), stages.CHUNK_ROWS):
        bucket_N = places_N[start : start + stages.CHUNK_ROWS] // stages.BUCKET_ROWS
        count_K += np.bincount(bucket_N, minlength=len(count_K))
    return Done(count_K.tolist())


def scatter_day(work: Work, day: int) -> Done:
    """Write a training day's rows and their places to their buckets."""
    places_N = np.memmap(_places(work, day), np.uint32, "r")
    capped = CappedRows(work, day, rounded=True)

    def read(start: int, stop: int) -> np.ndarray:
        rows_NF = capped(start, stop)
        places = np.array(places_N[start:stop]).view(np.int32)
        return np.concatenate([rows_NF, places[:, None]], 1)

    def bucket_of(chunk: int, start: int, num_rows: int) -> np.ndarray:
        return places_N[start : start + num_rows] // stages.BUCKET_ROWS

    return stages.scatter_rows(work, day, read, bucket_of)


def order_bucket(work: Work, bucket: int) -> Done:
    """Put a bucket's rows in their places of the training split."""
    start, rows_NF = stages.read_bucket(work, bucket, PLACED_FIELDS)
    order = rows_NF[:, -1].view(np.uint32).argsort()
    return Done(store_rows(work.out, "train", start, rows_NF[order, :-1]))


class CappedRows:
    """Rows of a parsed and numbered day, its categories as rows of the tables."""

    def __init__(self, work: Work, day: int, *, rounded: bool = False) -> None:
        """Read a day; ``rounded`` passes its numbers through float32, as training rows do."""
        self._read, self._rounded = DayReader(work, day), rounded
        self._sizes = np.array(work.table_sizes, np.int32)

    def __call__(self, start: int, stop: int) -> np.ndarray:
        """Return rows as int32 (N, 40), fields in the text's order; stops at the day's end."""
        rows_NF = self._read(start, stop)
        numbers_NT = rows_NF[:, FIRST_CATEGORY:]
        if self._rounded:
            numbers_NT = numbers_NT.astype(np.float32).astype(np.int32)
        rows_NF[:, FIRST_CATEGORY:] = numbers_NT % self._sizes
        return rows_NF


def _places(work: Work, day: int) -> Path:
    """Return the file with the place of each of a day's rows; a scattered day's is of no use."""
    return work.folder / f"places_{day:02d}"
