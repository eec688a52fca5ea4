"""A Lightning logger that writes ``metrics.csv``: every metric over step, samples and seconds."""

from __future__ import annotations

import csv
import math
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from callbacks.quality_target import RunState
from callbacks.writing import reporting_errors, writing

SECONDS_BETWEEN_WRITES = 1.0


class MetricsCSV(Logger):
    """Append one row per logging step; a new metric rewrites the file with one more column.

    Rows are written a second after the last ones at the earliest, together with those before them.

    Args:
        state: The run's shared state, for samples and timed seconds.
        folder: Gives the run's directory once it exists.
    """

    def __init__(self, state: RunState, folder: Callable[[], Path]) -> None:
        super().__init__()
        self._state, self._folder = state, folder
        self._columns = ["step", "samples", "seconds"]
        self._rows: list[dict[str, Any]] = []
        self._written = 0
        self._written_at = -math.inf

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""  # a run's directory is never used twice

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kw: Any) -> None:
        """Create the file, also for a run without a row; the parameters are in ``config.yaml``."""
        self._write([])

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        state = self._state
        row = {"step": step, "samples": state.samples, "seconds": round(state.clock.seconds, 3)}
        row |= metrics
        self._rows.append(row)
        new = [key for key in row if key not in self._columns]
        if new:
            self._columns += new
            self._written, self._written_at = 0, -math.inf
        self.save()

    @rank_zero_only
    def save(self) -> None:
        """Write rows if the last ones are old enough: Lightning calls this after every row."""
        if self._state.clock.now() - self._written_at >= SECONDS_BETWEEN_WRITES:
            self._write_pending()

    def _write_pending(self) -> None:
        pending = self._rows[self._written :]
        if pending:
            self._write(pending)

    def _write(self, pending: Sequence[dict[str, Any]]) -> None:
        mode = "a" if self._written else "w"
        path = self._folder() / "metrics.csv"
        with writing(path), path.open(mode, newline="") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            if mode == "w":
                writer.writeheader()
            writer.writerows(pending)
        self._written = len(self._rows)
        self._written_at = self._state.clock.now()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        with reporting_errors("the last rows are missing") if status == "failed" else nullcontext():
            self._write_pending()
