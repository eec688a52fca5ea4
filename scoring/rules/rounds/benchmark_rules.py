"""The rules for one benchmark in one round."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class BenchmarkRules:
    """The rules for one benchmark's results in one round."""

    name: str
    """mllog name, such as ``unet3d``."""
    title: str
    """The task in words."""
    runs: int
    """Runs in one result."""
    drop: int
    """Runs dropped at each end; also how many may fail to converge."""
    mode: str
    """``max`` (value >= target), ``min`` (value <= target), or ``mixed``: see ``modes``."""
    target: Mapping[str, float]
    """Metric name -> value; all must hold at one evaluation."""
    progress: str
    """``epochs``, ``samples``, ``tokens``, ``steps``, ``generations`` or ``epochs_from_one``."""
    evaluation: Mapping[str, Any] | None
    """The closed division's evaluation schedule; None where the rules state none to check."""
    rcp: bool
    """Whether ``mlperf_logging`` has reference convergence points for it."""
    bound: float | None = None
    """A value at or past it is invalid, such as 1.0 for a fraction; None for no bound."""
    large_batch: int | None = None
    """Global batch size from which ``large_batch_target`` holds; None where there is one target."""
    large_batch_target: Mapping[str, float] = field(default_factory=dict)
    modes: Mapping[str, str] = field(default_factory=dict)
    """Metric name -> mode, where the metrics differ in it (Stable Diffusion)."""
    bounds: Mapping[str, float] = field(default_factory=dict)
    """Metric name -> bound, where the metrics differ in it."""
    asynchronous: bool = False
    """Checkpoints may be evaluated after the clock, in any order and not all of them."""
    init_limit_minutes: float | None = None
    """Longest closed initialisation, where it differs from the round's."""
    rcp_allowance: float = 0.0
    """Progress by which a result may lie below the convergence test's minimum."""
    open_faults: Mapping[str, str] = field(default_factory=dict)
    """Log keys (a regular expression) -> what the official open file wrongly demands of them."""

    def targets(self, batch: int | None = None) -> Mapping[str, float]:
        """Return the target at one global batch size.

        Args:
            batch: Global batch size of the run; a few targets depend on it.

        Returns:
            Metric name -> value.
        """
        large = self.large_batch is not None and batch is not None and batch >= self.large_batch
        return self.large_batch_target if large else self.target

    def reached(self, quality: Mapping[str, float], batch: int | None = None) -> bool:
        """Return whether one evaluation meets the target, inclusively and without rounding.

        Args:
            quality: Metric name -> value. The single entry of a scalar may have any name.
            batch: Global batch size of the run; a few targets depend on it.

        Returns:
            True if every target metric holds and none is past ``bound`` (so a log in percent never
            does); a missing or NaN value never holds.
        """
        targets = self.targets(batch)
        if len(targets) == 1 and len(quality) == 1:
            quality = dict(zip(targets, quality.values(), strict=True))
        return all(
            self._holds(name, quality.get(name, math.nan), target)
            for name, target in targets.items()
        )

    def _holds(self, name: str, value: float, target: float) -> bool:
        bound = self.bounds.get(name, self.bound)
        if self.modes.get(name, self.mode) == "max":
            return target <= value < (math.inf if bound is None else bound)
        return target >= value > (-math.inf if bound is None else bound)
