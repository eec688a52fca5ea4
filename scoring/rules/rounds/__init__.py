"""The rules of each MLPerf Training round, one readable data file per round."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


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
    """``max`` (value >= target) or ``min`` (value <= target)."""
    target: Mapping[str, float]
    """Metric name -> value; all must hold at one evaluation."""
    progress: str
    """``epochs``, ``samples``, ``generations`` or ``epochs_from_one``."""
    evaluation: Mapping[str, Any] | None
    """The closed division's evaluation schedule; None where the round file has none."""
    rcp: bool
    """Whether reference convergence points exist."""
    bound: float | None = None
    """A value at or past it is invalid, such as 1.0 for a fraction; None for no bound."""
    large_batch: int | None = None
    """Global batch size from which ``large_batch_target`` holds; None where there is one target."""
    large_batch_target: Mapping[str, float] = field(default_factory=dict)

    def reached(self, quality: Mapping[str, float], batch: int | None = None) -> bool:
        """Return whether one evaluation meets the target, inclusively and without rounding.

        Args:
            quality: Metric name -> value. The single entry of a scalar may have any name.
            batch: Global batch size of the run; a few targets depend on it.

        Returns:
            True if every target metric holds and none is past ``bound`` (so a log in percent never
            does); a missing or NaN value never holds.
        """
        targets = self.target
        if self.large_batch is not None and batch is not None and batch >= self.large_batch:
            targets = self.large_batch_target
        if len(targets) == 1 and len(quality) == 1:
            pairs = list(zip(quality.values(), targets.values(), strict=True))
        else:
            pairs = [(quality.get(name, math.nan), value) for name, value in targets.items()]
        if self.mode == "max":
            bound = math.inf if self.bound is None else self.bound
            return all(target <= value < bound for value, target in pairs)
        bound = -math.inf if self.bound is None else self.bound
        return all(target >= value > bound for value, target in pairs)


@dataclass(frozen=True)
class Round:
    """One round: the checker's ruleset and every benchmark's rules."""

    name: str
    released: str
    checker_ruleset: str
    rcp_ruleset: str | None
    init_limit_minutes: float
    divisions: tuple[str, ...]
    log_status_words: tuple[str, ...]
    benchmarks: Mapping[str, BenchmarkRules]


def round_names() -> list[str]:
    """List the rounds that have rules here, oldest first.

    Returns:
        Names such as ``v1.0``.
    """
    return sorted(path.stem for path in FOLDER.glob("v*.yaml"))


@cache
def load_round(name: str = "v1.0") -> Round:
    """Read one round's rules.

    Args:
        name: Such as ``v1.0``; the leading ``v`` is optional.

    Returns:
        The round.

    Raises:
        ValueError: If there are no rules for that round; the message lists those that exist.
    """
    import yaml

    name = name if name.startswith("v") else f"v{name}"
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"no round {name!r}; choose one of {', '.join(round_names())}")
    facts = yaml.safe_load(path.read_text())
    benchmarks = {
        stem: BenchmarkRules(name=stem, **rules) for stem, rules in facts["benchmarks"].items()
    }
    return Round(
        name=facts["round"],
        released=facts["released"],
        checker_ruleset=str(facts["checker_ruleset"]),
        rcp_ruleset=facts["rcp_ruleset"],
        init_limit_minutes=float(facts["init_limit_minutes"]),
        divisions=tuple(facts["divisions"]),
        log_status_words=tuple(facts["log_status_words"]),
        benchmarks=benchmarks,
    )
