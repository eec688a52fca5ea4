"""Criteo 1TB Click Logs: 24 days of advertisements shown and clicked, for DLRM."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from datamodules.criteo import prepare as preparation
from datamodules.criteo import synthetic
from datamodules.criteo.base import REFERENCE_DAYS, ClickLogs
from datamodules.criteo.batches import Batch, BlockSampler, CriteoBlocks
from datamodules.criteo.store import Manifest, Settings
from datamodules.criteo.synthetic import cut_manifest
from datamodules.criteo.text import NUM_DENSE

REFERENCE = Settings(num_days=REFERENCE_DAYS, max_ind_range=40_000_000)


class CriteoDataModule(ClickLogs):
    """Blocks of shuffled click-log rows.

    A batch is a dict of ``dense`` (B, 13) int32, ``sparse`` (B, 26) int32 and ``label`` (B,)
    uint8.
    """

    benchmark = "dlrm"

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
        super().__init__(
            root=root,
            prepared_dir=prepared_dir,
            batch_size=batch_size,
            evaluation_batch_size=evaluation_batch_size,
            num_days=num_days,
            limit=("max_ind_range", max_ind_range),
            num_workers=num_workers,
            prepare_processes=prepare_processes,
        )

    def make_settings(self, num_days: int) -> Settings:
        return Settings(num_days, self._limit)

    def run_preparation(self, **options: Any) -> Manifest:
        settings = self.settings
        assert isinstance(settings, Settings)
        return preparation.prepare(self.source, self.prepared, settings, **options)

    def blocks(self, split: str) -> Dataset[Any]:
        return CriteoBlocks(self.prepared, split)

    def train_sampler(self) -> Sampler[Any]:
        return BlockSampler(
            self.manifest.rows["train"],
            self.global_batch_size,
            batch_size=self.batch_size,
            **self.sampler_options,
        )

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
        """Return random rows on the CPU."""
        rng = np.random.default_rng(0)
        sparse = rng.integers(self.table_sizes, size=(size, len(self.table_sizes)), dtype=np.int32)
        batch: Batch = {
            "dense": torch.randint(0, 1000, (size, NUM_DENSE), dtype=torch.int32),
            "sparse": torch.from_numpy(sparse),
            "label": torch.randint(0, 2, (size,), dtype=torch.uint8),
        }
        return batch, size
