"""From Criteo's text to shuffled, numbered, memory-mapped columns for DLRM, in restartable stages.

Categories are hashed to a range before they are numbered, by first appearance; a training row goes
to a random bucket and to a random place in it, which together is a uniformly random order. Memory:
at most about 0.7 GB per process, under 4 GB in all with the number of processes chosen here.

Source: facebookresearch/dlrm @ 6d75c84d, data_utils.py. Differs: buckets are small and the shuffle
has a fixed seed.
"""

import zlib
from dataclasses import replace as changed_copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.common.preparation import Done, Preparation, Unit
from datamodules.criteo import stages
from datamodules.criteo.stages import (
    DayReader,
    Work,
    count_buckets,
    create_buckets,
    dictionary,
    drop_day,
    drop_hashes,
    finish,
    parse_day,
    parse_days,
    read_bucket,
    run_stages,
    scatter_rows,
    split_evaluation,
    store_rows,
)
from datamodules.criteo.store import Manifest, Settings
from datamodules.criteo.text import NUM_TABLES, assign_ids, compiled

SHUFFLE_SEED = 20210630
_BUCKET_STREAM, _PERMUTE_STREAM = 1, 2


def prepare(root: Path, out: Path, settings: Settings, **options: Any) -> Manifest:
    """Prepare a directory, or finish one that a killed run left; see ``stages.run_stages``.

    Args:
        root: Directory with ``day_0`` ... or ``day_0.gz`` ...
        out: The prepared directory.
        settings: Number of days and index range.
        **options: ``replace``, ``processes`` and ``show_progress`` of ``stages.run_stages``.

    Returns:
        Its manifest.

    Raises:
        FileNotFoundError: If days are missing.
        ValueError: If a day's text has another format, or the directory other settings or
            another version.
    """
    return run_stages(Work(root, out, settings), _build, **options)


def _build(work: Work, preparation: Preparation, processes: int) -> None:
    """Run all stages, each skipping what is done."""
    run = partial(preparation.run, processes=processes)
    work = parse_days(work, preparation, _parse, processes)
    columns = [
        Unit(f"number_{column:02d}", column, (dictionary(column),)) for column in range(NUM_TABLES)
    ]
    number, drop = partial(number_column, work), partial(drop_hashes, work)
    sizes = run("numbering columns", number, columns, after=drop)
    work = changed_copy(work, table_sizes=tuple(size for size, _ in sizes.values()))
    num_buckets = count_buckets(work)
    planned = [Unit(f"plan_{day:02d}", day) for day in work.train_days]
    create_buckets(work, run("drawing buckets", partial(plan_day, work, num_buckets), planned))
    scattered = [Unit(f"scatter_{day:02d}", day) for day in work.train_days]
    scatter = partial(scatter_day, work)
    run("scattering days", scatter, scattered, after=partial(drop_day, work))
    split = split_evaluation(work, preparation, DayReader, processes)
    buckets = [Unit(f"permute_{bucket:05d}", bucket) for bucket in range(num_buckets)]
    blocks = run("permuting buckets", partial(permute_bucket, work), buckets)
    finish(work, preparation, list(sizes.values()), [*split, *blocks.values()])


def _parse(work: Work, day: int) -> Done:
    return parse_day(work, day, work.settings.max_ind_range)


def number_column(work: Work, column: int) -> Done:
    """Replace a column's hash values by ids in order of first appearance, over all days.

    As hash values are below ``max_ind_range``, a direct table (160 MB at 40 million) is the whole
    dictionary. Results in the distinct categories and the dictionary's checksum.
    """
    table = np.full(work.settings.max_ind_range, -1, np.int32)
    order = np.empty(work.settings.max_ind_range, np.int32)
    num_known, assign = 0, compiled(assign_ids)
    for day in work.days:
        hashes_N = work.column(day, f"hash_{column:02d}", np.int32)
        with (work.day(day) / f"id_{column:02d}").open("wb") as file:
            for start in range(0, len(hashes_N), stages.CHUNK_ROWS):
                chunk = np.array(hashes_N[start : start + stages.CHUNK_ROWS])
                ids = np.empty_like(chunk)
                num_known = assign(chunk, table, order, num_known, ids)
                ids.tofile(file)
    # Element i is the hash value with id i: what raw text needs to be read with these tables.
    path = work.out / dictionary(column)
    np.save(path, order[:num_known])
    return Done([int(num_known), zlib.crc32(path.read_bytes())])


def plan_day(work: Work, num_buckets: int, day: int) -> Done:
    """Draw the buckets of a training day's rows; results in the rows that each bucket gets."""
    count_K, num_rows = np.zeros(num_buckets, np.int64), work.rows[day]
    for chunk, start in enumerate(range(0, num_rows, stages.CHUNK_ROWS)):
        bucket_N = _buckets(day, chunk, min(stages.CHUNK_ROWS, num_rows - start), num_buckets)
        count_K += np.bincount(bucket_N, minlength=num_buckets)
    return Done(count_K.tolist())


def scatter_day(work: Work, day: int) -> Done:
    """Write a training day's rows to their buckets."""
    num_buckets = count_buckets(work)

    def bucket_of(chunk: int, start: int, num_rows: int) -> np.ndarray:
        return _buckets(day, chunk, num_rows, num_buckets)

    return scatter_rows(work, day, DayReader(work, day), bucket_of)


def permute_bucket(work: Work, bucket: int) -> Done:
    """Write a bucket's rows in random order to the training split."""
    start, rows_NF = read_bucket(work, bucket)
    order = np.random.default_rng([_PERMUTE_STREAM, SHUFFLE_SEED, bucket]).permutation(len(rows_NF))
    return Done(store_rows(work.out, "train", start, rows_NF[order]))


def _buckets(day: int, chunk: int, num_rows: int, num_buckets: int) -> np.ndarray:
    """Draw the bucket of each row of a chunk: int32, a function of day and chunk."""
    rng = np.random.default_rng([_BUCKET_STREAM, SHUFFLE_SEED, day, chunk])
    return rng.integers(num_buckets, size=num_rows, dtype=np.int32)
