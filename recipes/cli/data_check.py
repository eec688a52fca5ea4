"""Own data belongs to the open division: say so before anything is trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from datamodules.common.stream.pattern import show
from recipes.cli.benchmark import Benchmark
from recipes.cli.usage import UsageError

OPEN = "--submission.division open"
OWN_DATA = "own data"


def check_data(benchmark: Benchmark, datamodule: Any, division: str) -> None:
    """Raise if a closed run's data is not the benchmark's.

    Args:
        benchmark: The data sheet.
        datamodule: The data module; its ``differences()`` are what counts.
        division: The run's division by its settings.

    Raises:
        UsageError: One line: what differs, and the flag that trains on it.
    """
    if division == "closed" and (lines := datamodule.differences()):
        raise UsageError(f"{describe(benchmark, datamodule, lines)}; {OPEN} trains on it")


def describe(benchmark: Benchmark, datamodule: Any, differences: Sequence[str]) -> str:
    """Return one line that names the data and what differs; at most four differences."""
    more = f"; {len(differences) - 4} more" if len(differences) > 4 else ""
    shown = "; ".join(differences[:4])
    return (
        f"the data in {datamodule.root} is not the benchmark's {benchmark.dataset}: {shown}{more}"
    )


class DataCheck(Callback):
    """Check the data again once it is prepared, before the run has a directory.

    Args:
        benchmark: The data sheet.
        division: The run's division by its settings.

    Attributes:
        dataset: Name of the data for the record: the benchmark's, or where own data lies.
    """

    def __init__(self, benchmark: Benchmark, division: str) -> None:
        self._benchmark, self._division = benchmark, division
        self.dataset = benchmark.dataset

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        check_data(self._benchmark, datamodule, self._division)
        if streamed := getattr(datamodule, "streamed", None):
            self.dataset = f"shards {show(streamed.patterns.train)}"
            return
        if self._division == "open" and datamodule.differences():
            self.dataset = f"{OWN_DATA} in {Path(datamodule.root).resolve()}"
