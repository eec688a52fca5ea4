"""Criteo 1TB Click Logs with a bag of ids per category, for DLRM-DCNv2.

Either the text, prepared, whose bags are made on the fly; or the published multi-hot files, read as
they are.
"""

from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from datamodules.common.memory import MemoryNeed, machine_bytes
from datamodules.common.process_pool import outcomes
from datamodules.common.records import MANIFEST
from datamodules.criteo import stages
from datamodules.criteo.base import REFERENCE_DAYS, ClickLogs
from datamodules.criteo.batches import BlockSampler
from datamodules.criteo.multi_hot import prepare as preparation
from datamodules.criteo.multi_hot import published, synthetic
from datamodules.criteo.multi_hot.bags import BAG_SIZES, FILE, Bags, file_bytes
from datamodules.criteo.multi_hot.batches import Batch, MultiHotBlocks, PublishedBlocks
from datamodules.criteo.stages import TEXT_BYTES_PER_ROW
from datamodules.criteo.store import DAY_ROWS, Manifest, MultiHotSettings
from datamodules.criteo.synthetic import cut_manifest
from datamodules.criteo.text import NUM_DENSE

MAX_ROWS = 40_000_000
ORDER_BYTES = 1_000_000_000  # next to the order itself, while it is written


class MultiHotDataModule(ClickLogs):
    """Blocks of click-log rows in the benchmark's fixed order.

    A batch is a dict of ``dense`` (B, 13) float32, ``bags`` (B, 214) int32 and ``label`` (B,)
    uint8.
    """

    benchmark = "dlrm_dcnv2"
    demo_scales = {"category_scale": 0.33, "product_scale": 0.32}

    def __init__(
        self,
        *,
        root: Path | None = None,
        prepared_dir: Path | None = None,
        batch_size: int = 55_296,
        evaluation_batch_size: int = 65_536,
        num_days: int | None = None,
        max_rows: int = MAX_ROWS,
        expand_on_device: bool = False,
        num_workers: int = 0,
        prepare_processes: int = 0,
    ) -> None:
        """Defaults are the closed reference on one device.

        Args:
            root: Directory with ``day_0.gz`` ... ``day_23.gz`` or the unpacked ``day_0`` ...; once
                prepared, only the prepared directory is needed. Or the published multi-hot files
                (``day_0_dense.npy``, ``day_0_sparse_multi_hot.npz``, ``day_0_labels.npy`` ...),
                which need no preparation. None generates the demo data.
            prepared_dir: Directory for the prepared files; default one in the root, named after the
                settings.
            batch_size: Rows per device and step; the reference points are at 32768, 55296, 65536,
                102400, 135168 and 160000 rows over all devices.
            evaluation_batch_size: Rows per device in one forward pass of the evaluation.
            num_days: Days to use, at least 2; the last one is split into test and validation. None
                uses those that are there.
            max_rows: Most rows of a table; categories beyond it share rows. Fixed in published
                files.
            expand_on_device: Keep the bags (22 GiB) on the device and look them up there; else the
                loader does.
            num_workers: Loader processes per device; 0 loads in the training process.
            prepare_processes: Processes for preprocessing, up to 0.8 GB each (4.6 GB while they
                number the largest columns); 0 chooses by cores and memory.

        Raises:
            ValueError: If a number is out of range; one line each.
        """
        super().__init__(
            root=root,
            prepared_dir=prepared_dir,
            batch_size=batch_size,
            evaluation_batch_size=evaluation_batch_size,
            num_days=num_days,
            limit=("max_rows", max_rows),
            num_workers=num_workers,
            prepare_processes=prepare_processes,
        )
        self.expand_on_device = expand_on_device
        self.bag_sizes = BAG_SIZES
        self._device_bags: Bags | None = None

    @cached_property
    def published(self) -> bool:
        """Whether the root has the published multi-hot files."""
        return self.root is not None and published.is_published(self.root)

    @cached_property
    def settings(self) -> MultiHotSettings:
        """Days and limit; without a flag the days that are there, prepared, as text or as files."""
        if not self.published:
            return super().settings  # type: ignore[return-value]
        assert self.root is not None
        last = max(published.days_there(self.root), default=REFERENCE_DAYS - 1)
        return self.make_settings(self._wanted_days or last + 1)

    def make_settings(self, num_days: int) -> MultiHotSettings:
        return MultiHotSettings(num_days, self._limit)

    def run_preparation(self, **options: Any) -> Manifest:
        if self.published:
            return self._published_manifest()
        return preparation.prepare(self.source, self.prepared, self.settings, **options)

    def read_manifest(self) -> Manifest | None:
        """Read the sizes of the prepared or published data; None if it is not prepared."""
        return self._published_manifest() if self.published else super().read_manifest()

    def problems(self) -> list[str]:
        """List what makes this root unusable; opens no day.

        Returns:
            One line per problem: what, where, what to do; empty if there is none.
        """
        if self.published:
            return self._published_problems()
        return [*super().problems(), *self._memory_problem()]

    def prepare(self) -> None:
        """Prepare with a progress bar, verify all bytes, and print a summary.

        Of published files every id and label is read and checked.

        Raises:
            FileNotFoundError: If days are missing.
            ValueError: If the text has another format, the directory has other settings, or bytes
                are not those that were written.
        """
        if not self.published:
            super().prepare()
            return
        manifest = self._prepare(replace=True, show_progress=True)
        assert self.root is not None
        check = partial(
            published.check_split,
            self.root,
            manifest.table_sizes,
            self.settings.num_days,
            sketch=bool(self.differences()),  # the benchmark's own days are what they are
        )
        size = sum(path.stat().st_size for path in self.root.glob("day_*.np[yz]"))
        processes = self.prepare_processes or stages.choose_processes(size)
        sketches, lines = dict[int, np.ndarray](), list[str]()
        for found in outcomes(check, ["train", "test"], processes, "checking", show_progress=True):
            if isinstance(found, str):
                lines.append(found)
            else:
                sketches |= found
        lines = lines or published.equal_day_lines(self.root, sketches)
        if lines:
            raise ValueError("\n".join(lines))
        rows = manifest.rows
        print(
            f"{self.root}: published multi-hot files of {rows['train']:,} training and "
            f"{rows['test']:,} test rows, all ids in range"
        )

    def differences(self) -> list[str]:
        """Say how days and rows differ from the benchmark's; rows are known after ``prepare``."""
        if not self.published:
            return super().differences()
        assert self.root is not None
        if (days := self.settings.num_days) != REFERENCE_DAYS:
            return [f"{days} days instead of {REFERENCE_DAYS}"]
        if self._published_problems():
            return []  # reported by ``problems``
        rows = [published.day_rows(self.root, day) for day in range(days)]
        return [
            f"day_{day} has {found:,} rows instead of {wanted:,}"
            for day, (found, wanted) in enumerate(zip(rows, DAY_ROWS, strict=True))
            if found != wanted
        ]

    def net_facts(self) -> dict[str, Any]:
        """Return the rows and bag size of each table and the number of integers."""
        return {**super().net_facts(), "bag_sizes": list(BAG_SIZES)}

    def memory_needs(self) -> list[MemoryNeed]:
        """Return the bags, where the device keeps them."""
        if not self.expand_on_device or self.published:
            return []
        size = file_bytes(self.table_sizes)
        advice = "leave out --data.expand_on_device, and the loader expands the bags"
        return [MemoryNeed("bags (--data.expand_on_device)", size, True, advice)]

    def blocks(self, split: str) -> Dataset[Any]:
        if self.published:
            assert self.root is not None
            return PublishedBlocks(self.root, split, self.table_sizes, self.settings.num_days)
        expanded = not self.expand_on_device
        return MultiHotBlocks(self.prepared, split, self.table_sizes, expanded=expanded)

    def train_sampler(self) -> Sampler[Any]:
        return BlockSampler(
            self.manifest.rows["train"],
            self.global_batch_size,
            batch_size=self.batch_size,
            shuffled=False,  # the rules prohibit any other order
            **self.sampler_options,
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Expand the bags where the rows are now, if the loader has not."""
        if isinstance(batch, dict) and batch["bags"].shape[1] == len(BAG_SIZES):
            return {**batch, "bags": self._expanded(batch["bags"])}
        return batch

    def synthetic_batch(self) -> Batch:
        """Return a random training batch on the CPU, for warm-up and speed tests."""
        return self.synthetic_evaluation_batch(self.batch_size)[0]

    def use_synthetic_data(self, memory: float) -> list[str]:
        """Take the rows of all 24 days, and their tables as far as they fit."""
        self.synthetic = True
        tables = synthetic.TABLE_SIZES, synthetic.ROW_BYTES
        self._manifest, lines = cut_manifest(self.settings, memory, *tables)
        return lines

    def synthetic_evaluation_batch(self, size: int) -> tuple[Batch, int]:
        """Return random rows on the CPU; their bags are random, not the benchmark's."""
        rng = np.random.default_rng(0)
        most = np.repeat(self.table_sizes, BAG_SIZES)
        batch: Batch = {
            "dense": torch.rand(size, NUM_DENSE) * 7,
            "bags": torch.from_numpy(rng.integers(most, size=(size, len(most)), dtype=np.int32)),
            "label": torch.randint(0, 2, (size,), dtype=torch.uint8),
        }
        return batch, size

    def _memory_problem(self) -> list[str]:
        """Return a line if drawing the rows' order needs more memory than there is."""
        if self.root is None or (self.prepared / MANIFEST).is_file():
            return []
        rows = stages.text_bytes(self.root, range(self.settings.num_days)) / TEXT_BYTES_PER_ROW
        needed, free = 4 * rows + ORDER_BYTES, machine_bytes()
        if needed < free:
            return []
        return [
            f"{self.root}: drawing the order of its rows needs about {needed / 1e9:.1f} GB of "
            f"memory, {free / 1e9:.1f} GB are free; prepare on a larger machine and copy "
            f"{self.prepared}"
        ]

    def _expanded(self, rows_BT: Tensor) -> Tensor:
        """Look up the bags on the rows' device, which keeps them from the first batch on."""
        if self._device_bags is None:
            bags = Bags.open(self.prepared / FILE, self.table_sizes)
            # One after the other: the host holds a single table's bags, not all of them.
            tables = [torch.from_numpy(np.array(t)).to(rows_BT.device) for t in bags.tables]
            for table, size in zip(tables, self.table_sizes, strict=True):
                if table.numel() and not 0 <= int(table.min()) <= int(table.max()) < size:
                    raise ValueError(
                        f"{self.prepared / FILE}: an id is not in its table, so the file is not "
                        f"what was written; delete {self.prepared / MANIFEST} and run prepare"
                    )
            self._device_bags = Bags(tables)
        parts = [
            torch.cat([rows[:, None], table[rows.long()]], 1)
            for rows, table in zip(rows_BT.unbind(1), self._device_bags.tables, strict=True)
        ]
        return torch.cat(parts, 1)

    def _published_problems(self) -> list[str]:
        """Return a line per missing or damaged published file, or for a limit of other tables."""
        assert self.root is not None
        if self._limit != MAX_ROWS:
            return [
                f"max_rows is {self._limit:,}, but the ids of the published files in {self.root} "
                f"are those of tables of at most {MAX_ROWS:,} rows; leave out --data.max_rows"
            ]
        return published.problems(self.root, self.settings.num_days)

    def _published_manifest(self) -> Manifest:
        """Count the published files' rows; ValueError with a line per missing or damaged file."""
        assert self.root is not None
        days = self.settings.num_days
        if lines := self._published_problems():
            raise ValueError("\n".join(lines))
        *train, last = (published.day_rows(self.root, day) for day in range(days))
        half = -(-last // 2)
        rows = {"train": sum(train), "test": half, "validation": last - half}
        return Manifest(self.settings, rows, synthetic.TABLE_SIZES)
