"""Criteo 1TB Click Logs: 24 days of advertisements shown and clicked, for DLRM.

Data: Criteo AI Lab, "criteo-1tb-click-logs-dataset-for-mlperf", about 1 TB of text (350 GB
compressed), Criteo's terms of use. Train: days 0 to 22; test: first half of day 23.
"""

import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from datamodules.common.base import BenchmarkDataModule
from datamodules.common.cache import build_once, demo_folder
from datamodules.common.preparation import space_problem
from datamodules.common.records import MANIFEST, changed_units, read_records
from datamodules.common.sampling import padded_length, ranks
from datamodules.criteo import prepare as preparation
from datamodules.criteo import synthetic
from datamodules.criteo.batches import Batch, BlockSampler, CriteoBlocks, evaluation_blocks
from datamodules.criteo.checksums import verify
from datamodules.criteo.store import (
    DAY_ROWS,
    REFERENCE_ROWS,
    ROW_BYTES,
    Manifest,
    Settings,
    read_manifest,
)
from datamodules.criteo.text import NUM_DENSE, SHORTEST_LINE, day_file, most_unpacked

REFERENCE = Settings(num_days=24, max_ind_range=40_000_000)


class CriteoDataModule(BenchmarkDataModule):
    """Blocks of shuffled click-log rows.

    A batch is a dict of ``dense`` (B, 13) int32, ``sparse`` (B, 26) int32 and ``label`` (B,)
    uint8.
    """

    evaluation_sample = "row"

    def __init__(
        self,
        *,
        root: Path | None = None,
        prepared_dir: Path | None = None,
        batch_size: int = 55_296,
        evaluation_batch_size: int = 65_536,
        num_days: int | None = None,
        max_ind_range: int = REFERENCE.max_ind_range,
        num_workers: int = 0,
        prepare_processes: int = 0,
    ) -> None:
        """Defaults are the closed reference on one device.

        Args:
            root: Directory with ``day_0.gz`` ... ``day_23.gz`` or the unpacked ``day_0`` ...; once
                prepared, only the prepared directory is needed. None generates the demo data.
            prepared_dir: Directory for the prepared files; default one in the root, named after the
                settings.
            batch_size: Rows per device and step; the reference points are at 32768, 55296 and
                71680 rows over all devices.
            evaluation_batch_size: Rows per device in one forward pass of the evaluation.
            num_days: Days to use, at least 2; the last one is split into test and validation. None
                uses those that are there.
            max_ind_range: Categories are taken modulo this, which limits the rows per table.
            num_workers: Loader processes per device; 0 loads in the training process.
            prepare_processes: Processes for preprocessing, up to 0.8 GB each; 0 chooses by cores
                and stays under 4 GB in all.

        Raises:
            ValueError: If a number is out of range; one line each.
        """
        super().__init__()
        problems = [
            f"{name} must be {rule}, got {value}"
            for name, value, rule, good in (
                ("batch_size", batch_size, "at least 1", batch_size >= 1),
                (
                    "evaluation_batch_size",
                    evaluation_batch_size,
                    "at least 1",
                    evaluation_batch_size >= 1,
                ),
                ("num_days", num_days, "at least 2", num_days is None or num_days >= 2),
                ("max_ind_range", max_ind_range, "in [1, 2^31)", 1 <= max_ind_range < 2**31),
                ("num_workers", num_workers, "at least 0", num_workers >= 0),
                ("prepare_processes", prepare_processes, "at least 0", prepare_processes >= 0),
            )
            if not good
        ]
        if problems:
            raise ValueError("\n".join(problems))
        self.demo = root is None
        self.root = None if root is None else Path(root)
        self.prepared_dir = None if prepared_dir is None else Path(prepared_dir)
        self.batch_size, self.evaluation_batch_size = batch_size, evaluation_batch_size
        self._wanted_days, self._max_ind_range = num_days, max_ind_range
        self.num_workers, self.prepare_processes = num_workers, prepare_processes
        self._manifest: Manifest | None = None

    @cached_property
    def settings(self) -> Settings:
        """Days and index range; without a flag the days that are there, prepared or as text."""
        if self._wanted_days is not None or self.root is None:
            return Settings(self._wanted_days or REFERENCE.num_days, self._max_ind_range)
        last = max([*_days_in(self.root), *self._prepared_days()], default=0)
        return Settings(last or REFERENCE.num_days, self._max_ind_range)

    @property
    def samples_per_epoch(self) -> int:
        """Training rows per epoch, padded to whole global batches."""
        return padded_length(self.manifest.rows["train"], self.global_batch_size)

    @property
    def table_sizes(self) -> tuple[int, ...]:
        """Distinct categories per column: the rows that the model's tables need."""
        return self.manifest.table_sizes

    @property
    def manifest(self) -> Manifest:
        """Sizes of the prepared data.

        Raises:
            ValueError: If it is not prepared.
        """
        if self._manifest is None:
            self._manifest = read_manifest(self._prepared, self.settings)
        if self._manifest is None:
            raise ValueError(f"{self._prepared} is not prepared; run the recipe's prepare command")
        return self._manifest

    def prepare_data(self) -> None:
        """Write the prepared files; if they exist, read only the manifest.

        Raises:
            FileNotFoundError: If days are missing.
            ValueError: If the text has another format or the directory other settings.
        """
        self._prepare(replace=self.demo, show_progress=not self.demo)

    def prepare(self) -> None:
        """Prepare with a progress bar, verify all bytes, and print a summary.

        Raises:
            FileNotFoundError: If days are missing.
            ValueError: If the text has another format, the directory has other settings, or bytes
                are not those that were written.
        """
        manifest = self._prepare(replace=True, show_progress=True)
        for line in self._changed_lines():
            print(line)
        size = ROW_BYTES * sum(manifest.rows.values())
        processes = self.prepare_processes or preparation.choose_processes(size)
        if problems := verify(self._prepared, processes, show_progress=True):
            raise ValueError("\n".join(problems))
        rows, sizes = manifest.rows, manifest.table_sizes
        name = "Criteo demo" if self.demo else "Own data" if self.differences() else "Criteo"
        print(
            f"{name} is ready in {self._prepared}: "
            f"{rows['train']:,} training and {rows['test']:,} test rows"
        )
        print(f"Tables: {list(sizes)}, {sum(sizes):,} rows in all")

    def setup(self, stage: str) -> None:
        """Check that the training rows fill a global batch.

        Args:
            stage: ``fit`` or ``validate``.

        Raises:
            ValueError: If a global batch is larger than the training split.
        """
        rows = self.manifest.rows["train"]
        if stage == "fit" and self.global_batch_size > rows:
            raise ValueError(
                f"the global batch of {self.global_batch_size:,} rows (data.batch_size "
                f"{self.batch_size:,} x devices x accumulation) is larger than the training split "
                f"of {rows:,}; lower data.batch_size"
            )

    def problems(self) -> list[str]:
        """List what makes this root unusable; opens no day.

        Returns:
            One line per problem: what, where, what to do; empty if there is none.
        """
        if self.root is None:
            return []
        try:
            if read_manifest(self._prepared, self.settings):
                return self._changed_lines()
        except ValueError as error:
            return str(error).splitlines()
        work = preparation.Work(self.root, self._prepared, self.settings)
        days = preparation.unparsed_days(work)
        lines = preparation.missing_days(work)
        lines += preparation.half_unpacked_days(self.root, days)
        for day in days:
            file = day_file(self.root, day)
            if file is not None and not file.stat().st_size:
                lines.append(f"{file} is empty; download this day again")
        needed = preparation.space_needed(self.root, days)
        return [*lines, *filter(None, [space_problem(self._prepared, needed)])]

    def differences(self) -> list[str]:
        """Say how days and rows differ from the benchmark's; rows are known after ``prepare``."""
        if self.root is None:
            return []
        if (days := self.settings.num_days) != REFERENCE.num_days:
            return [f"{days} days instead of {REFERENCE.num_days}"]
        try:
            rows = self.manifest.rows
        except (OSError, ValueError):
            return _small_days(self.root)  # other errors: told by ``prepare_data``, ``problems``
        records = read_records(self._prepared)
        lines = [
            f"day_{day} has {record['result']:,} rows instead of {published:,}"
            for day, published in enumerate(DAY_ROWS)
            if (record := records.get(f"parse_{day:02d}")) and record["result"] != published
        ]
        return lines or [
            f"{rows[split]:,} {split} rows instead of {published:,}"
            for split, published in REFERENCE_ROWS.items()
            if rows[split] != published
        ]

    def net_facts(self) -> dict[str, Any]:
        """Return the rows of each table and the number of integers; known after ``prepare``."""
        return {"table_sizes": list(self.table_sizes), "num_dense": NUM_DENSE}

    def mllog_facts(self) -> dict[str, object]:
        """Return the log's data keys, from the manifest."""
        rows = self.manifest.rows
        return {"train_samples": rows["train"], "eval_samples": rows["test"]}

    def train_dataloader(self) -> DataLoader[Any]:
        """Return this rank's blocks, from where a resumed run stopped."""
        sampler = BlockSampler(
            self.manifest.rows["train"],
            self.global_batch_size,
            batch_size=self.batch_size,
            **self.sampler_options,
        )
        data = CriteoBlocks(self._prepared, "train")
        return DataLoader(data, batch_size=None, sampler=sampler, **self.loader_options)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return this rank's test rows in order, each exactly once over all ranks."""
        rank, world_size = ranks(self.trainer)
        blocks = evaluation_blocks(
            self.manifest.rows["test"], self.evaluation_batch_size, rank, world_size
        )
        data, order = CriteoBlocks(self._prepared, "test"), _Listed(blocks)
        return DataLoader(data, batch_size=None, sampler=order, **self.loader_options)

    def synthetic_batch(self) -> Batch:
        """Return a random training batch on the CPU, for warm-up and speed tests."""
        return self.synthetic_evaluation_batch(self.batch_size)[0]

    def use_synthetic_data(self, memory: float) -> list[str]:
        """Take the rows of all 24 days, and their tables as far as they fit."""
        self.synthetic = True
        self._manifest = synthetic.manifest(self.settings, memory)
        return synthetic.scaled_line(self.table_sizes)

    def synthetic_evaluation_batch(self, size: int) -> tuple[Batch, int]:
        """Return random rows on the CPU."""
        rng = np.random.default_rng(0)
        sparse = rng.integers(self.table_sizes, size=(size, len(self.table_sizes)), dtype=np.int32)
        batch: Batch = {
            "dense": torch.randint(0, 1000, (size, NUM_DENSE), dtype=torch.int32),
            "sparse": torch.from_numpy(sparse),
            "label": torch.randint(0, 2, (size,), dtype=torch.uint8),
        }
        return batch, size

    @property
    def _source(self) -> Path:
        """The root, or the directory of the generated logs."""
        from datamodules.criteo.demo import ROWS_PER_DAY, VERSION

        params = {"days": self.settings.num_days, "rows": ROWS_PER_DAY}
        return self.root or demo_folder("criteo", VERSION, params)

    @property
    def _prepared(self) -> Path:
        """The directory of the prepared files, one per set of settings."""
        s = self.settings
        name = f"finishline-dlrm-{s.num_days}days-{s.max_ind_range}"
        return self.prepared_dir or self._source / name

    def _prepared_days(self) -> list[int]:
        """Return the numbers of days that are prepared with this index range."""
        pattern = re.compile(rf"finishline-dlrm-(\d+)days-{self._max_ind_range}")
        if self.prepared_dir is not None:
            header = read_records(self.prepared_dir).get("", {})
            return [int(header["settings"]["num_days"])] if header else []
        assert self.root is not None
        folders = self.root.glob("finishline-dlrm-*/" + MANIFEST)
        return [int(m[1]) for path in folders if (m := pattern.fullmatch(path.parent.name))]

    def _changed_lines(self) -> list[str]:
        hint = f"delete {self._prepared / MANIFEST} and run prepare to use the new data"
        return [f"{line}; {hint}" for line in changed_units(self._prepared, self._source).values()]

    def _prepare(self, *, replace: bool, show_progress: bool) -> Manifest:
        if self.demo:
            from datamodules.criteo.demo import write_logs

            build_once(self._source, lambda folder: write_logs(folder, self.settings.num_days))
        self._manifest = preparation.prepare(
            self._source,
            self._prepared,
            self.settings,
            replace=replace,
            processes=self.prepare_processes,
            show_progress=show_progress,
        )
        return self._manifest


def _small_days(root: Path) -> list[str]:
    """Return a line for each day whose file cannot hold the published rows."""
    files = [(path, rows) for day, rows in enumerate(DAY_ROWS) if (path := day_file(root, day))]
    return [
        f"{path.name} has {size:,} bytes, too few for the published {rows:,} rows"
        for path, rows in files
        if (size := path.stat().st_size) * most_unpacked(path) < rows * SHORTEST_LINE
    ]


def _days_in(root: Path) -> list[int]:
    """Return how many days there are up to each one that is found, 1 for ``day_0``."""
    matches = (re.fullmatch(r"day_(\d{1,3})(\.gz)?", path.name) for path in root.glob("day_*"))
    return [int(match[1]) + 1 for match in matches if match]


class _Listed(torch.utils.data.Sampler[Any]):
    """A sampler over a given list."""

    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def __iter__(self) -> Any:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)
