"""Base of the data modules of both click benchmarks on Criteo's logs.

Data: Criteo AI Lab, "criteo-1tb-click-logs-dataset-for-mlperf", about 1 TB of text (350 GB
compressed), Criteo's terms of use. Train: days 0 to 22; test: first half of day 23.
"""

import re
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.common.base import BenchmarkDataModule
from datamodules.common.cache import build_once, demo_folder
from datamodules.common.preparation import space_problem
from datamodules.common.records import MANIFEST, changed_units, read_records
from datamodules.common.sampling import padded_length, ranks
from datamodules.criteo import stages
from datamodules.criteo.batches import evaluation_blocks
from datamodules.criteo.checksums import verify
from datamodules.criteo.store import (
    DAY_ROWS,
    REFERENCE_ROWS,
    ROW_BYTES,
    AnySettings,
    Manifest,
    read_manifest,
)
from datamodules.criteo.text import NUM_DENSE, SHORTEST_LINE, day_file, most_unpacked

REFERENCE_DAYS = 24


class ClickLogs(BenchmarkDataModule):
    """Prepared rows of the click logs; subclasses say how they are prepared and batched."""

    evaluation_sample = "row"
    benchmark: ClassVar[str]
    """In the name of the prepared directory."""
    demo_scales: ClassVar[dict[str, Any]] = {}
    """Arguments of the demo's writer that differ from its defaults."""

    def __init__(
        self,
        *,
        root: Path | None,
        prepared_dir: Path | None,
        batch_size: int,
        evaluation_batch_size: int,
        num_days: int | None,
        limit: tuple[str, int],
        num_workers: int,
        prepare_processes: int,
    ) -> None:
        """Keep the settings that both have; see the subclasses.

        Args:
            root: Directory of the logs; None for the demo.
            prepared_dir: Directory of the prepared files, or None.
            batch_size: Rows per device and step.
            evaluation_batch_size: Rows per device in one forward pass of the evaluation.
            num_days: Days to use, or None.
            limit: Name and value of what limits the tables' rows.
            num_workers: Loader processes per device.
            prepare_processes: Processes for preprocessing.

        Raises:
            ValueError: If a number is out of range; one line each.
        """
        super().__init__()
        checks = (
            ("batch_size", batch_size, "at least 1", batch_size >= 1),
            ("evaluation_batch_size", evaluation_batch_size, "at least 1",
             evaluation_batch_size >= 1),
            ("num_days", num_days, "at least 2", num_days is None or num_days >= 2),
            (*limit, "in [1, 2^31)", 1 <= limit[1] < 2**31),
            ("num_workers", num_workers, "at least 0", num_workers >= 0),
            ("prepare_processes", prepare_processes, "at least 0", prepare_processes >= 0),
        )  # fmt: skip
        problems = [
            f"{name} must be {rule}, got {value}" for name, value, rule, ok in checks if not ok
        ]
        if problems:
            raise ValueError("\n".join(problems))
        self.demo = root is None
        self.root = None if root is None else Path(root)
        self.prepared_dir = None if prepared_dir is None else Path(prepared_dir)
        self.batch_size, self.evaluation_batch_size = batch_size, evaluation_batch_size
        self._wanted_days, self._limit = num_days, limit[1]
        self.num_workers, self.prepare_processes = num_workers, prepare_processes
        self._manifest: Manifest | None = None

    def make_settings(self, num_days: int) -> AnySettings:
        """Return what the prepared bytes depend on."""
        raise NotImplementedError

    def run_preparation(self, **options: Any) -> Manifest:
        """Prepare ``self.source`` into ``self.prepared``; options of ``stages.run_stages``."""
        raise NotImplementedError

    def blocks(self, split: str) -> Dataset[Any]:
        """Return a prepared split, whose items are batches."""
        raise NotImplementedError

    def train_sampler(self) -> Sampler[Any]:
        """Return this rank's blocks of training rows, from where a resumed run stopped."""
        raise NotImplementedError

    @cached_property
    def settings(self) -> AnySettings:
        """Days and limit; without a flag the days that are there, prepared or as text."""
        if self._wanted_days is not None or self.root is None:
            return self.make_settings(self._wanted_days or REFERENCE_DAYS)
        last = max([*_days_in(self.root), *self._prepared_days()], default=0)
        return self.make_settings(last or REFERENCE_DAYS)

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
            self._manifest = self.read_manifest()
        if self._manifest is None:
            raise ValueError(f"{self.prepared} is not prepared; run the recipe's prepare command")
        return self._manifest

    def read_manifest(self) -> Manifest | None:
        """Read the sizes of the prepared data; None if it is not prepared."""
        return read_manifest(self.prepared, self.settings)

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
        processes = self.prepare_processes or stages.choose_processes(size)
        if problems := verify(self.prepared, processes, show_progress=True):
            raise ValueError("\n".join(problems))
        rows, sizes = manifest.rows, manifest.table_sizes
        name = "Criteo demo" if self.demo else "Own data" if self.differences() else "Criteo"
        print(
            f"{name} is ready in {self.prepared}: "
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
            if read_manifest(self.prepared, self.settings):
                return self._changed_lines()
        except ValueError as error:
            return str(error).splitlines()
        work = stages.Work(self.root, self.prepared, self.settings)
        days = stages.unparsed_days(work)
        lines = stages.missing_days(work)
        lines += stages.half_unpacked_days(self.root, days)
        for day in days:
            file = day_file(self.root, day)
            if file is not None and not file.stat().st_size:
                lines.append(f"{file} is empty; download this day again")
        needed = stages.space_needed(self.root, days)
        return [*lines, *filter(None, [space_problem(self.prepared, needed)])]

    def differences(self) -> list[str]:
        """Say how days and rows differ from the benchmark's; rows are known after ``prepare``."""
        if self.root is None:
            return []
        if (days := self.settings.num_days) != REFERENCE_DAYS:
            return [f"{days} days instead of {REFERENCE_DAYS}"]
        try:
            rows = self.manifest.rows
        except (OSError, ValueError):
            return _small_days(self.root)  # ``problems`` reports other errors
        records = read_records(self.prepared)
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
        sampler = self.train_sampler()
        options = self.loader_options
        return DataLoader(self.blocks("train"), batch_size=None, sampler=sampler, **options)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return this rank's test rows in order, each exactly once over all ranks."""
        rank, world_size = ranks(self.trainer)
        order = evaluation_blocks(
            self.manifest.rows["test"], self.evaluation_batch_size, rank, world_size
        )
        sampler, options = _Listed(order), self.loader_options
        return DataLoader(self.blocks("test"), batch_size=None, sampler=sampler, **options)

    @property
    def source(self) -> Path:
        """The root, or the directory of the generated logs."""
        from datamodules.criteo.demo import ROWS_PER_DAY, VERSION

        params = {"days": self.settings.num_days, "rows": ROWS_PER_DAY, **self.demo_scales}
        return self.root or demo_folder("criteo", VERSION, params)

    @property
    def prepared(self) -> Path:
        """The directory of the prepared files, one per set of settings."""
        name = f"finishline-{self.benchmark}-{self.settings.num_days}days-{self._limit}"
        return self.prepared_dir or self.source / name

    def _prepared_days(self) -> list[int]:
        """Return the numbers of days that are prepared with this limit."""
        pattern = re.compile(rf"finishline-{self.benchmark}-(\d+)days-{self._limit}")
        if self.prepared_dir is not None:
            header = read_records(self.prepared_dir).get("", {})
            return [int(header["settings"]["num_days"])] if header else []
        assert self.root is not None
        folders = self.root.glob(f"finishline-{self.benchmark}-*/" + MANIFEST)
        return [int(m[1]) for path in folders if (m := pattern.fullmatch(path.parent.name))]

    def _changed_lines(self) -> list[str]:
        hint = f"delete {self.prepared / MANIFEST} and run prepare to use the new data"
        return [f"{line}; {hint}" for line in changed_units(self.prepared, self.source).values()]

    def _prepare(self, *, replace: bool, show_progress: bool) -> Manifest:
        if self.demo:
            from datamodules.criteo.demo import write_logs

            def write(folder: Path) -> None:
                write_logs(folder, self.settings.num_days, **self.demo_scales)

            build_once(self.source, write)
        self._manifest = self.run_preparation(
            replace=replace, processes=self.prepare_processes, show_progress=show_progress
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


class _Listed(Sampler[Any]):
    """A sampler over a given list."""

    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def __iter__(self) -> Any:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)
