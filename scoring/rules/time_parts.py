"""Splits a result's minutes: samples to target / samples per second + evaluation + start.

All from the log: the start is the time from ``run_start`` to the first epoch or block, evaluation
is what the log marks as such, and training is the rest. The parts are means over the runs that the
score keeps, so that they add up to the score. Evaluation that overlaps training counts as
evaluation; where a log marks none it is part of training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scoring.rules.judged_runs import CONVERGED
from scoring.rules.olympic import standard_deviation
from scoring.rules.rounds.names import task_of
from scoring.rules.scores import Score, finite
from scoring.runs.logs import RunLog
from scoring.runs.result_sets import ResultSet

# Training samples per epoch of the benchmarks whose progress is in epochs. The train_samples of
# others' logs are also the samples trained (dlrm) or the steps per epoch (retinanet); they count
# for the tasks that are not here, as rnnt's depend on the longest utterance.
# Source: the data sets' sizes; compared with the logs of rounds v1.0 to v5.1.
SAMPLES_PER_EPOCH = {
    "resnet": 1_281_167,
    "ssd": 117_266,
    "retinanet": 1_170_301,
    "maskrcnn": 117_266,
    "unet3d": 168,
    "dlrm": 4_195_197_692,
    "dlrm_dcnv2": 4_195_197_692,
}


@dataclass(frozen=True)
class RunTime:
    """One run's minutes by part, and how far it trained in them."""

    name: str
    minutes: float
    """From run_start to run_stop; ``start``, ``training`` and ``evaluation`` add up to it."""
    start: float
    training: float
    evaluation: float | None
    """None where the log marks no evaluation; it is then part of ``training``."""
    init: float | None
    """From init_start to run_start, which is not timed; None if not logged."""
    amount: float | None
    """Samples to the target, in the unit of ``TimeParts``; None if not logged."""

    @property
    def rate(self) -> float | None:
        """Samples per second of training."""
        return self.amount / self.training / 60 if self.amount and self.training > 0 else None


@dataclass(frozen=True)
class TimeParts:
    """A result's minutes by part: means over the runs that the score keeps."""

    runs: tuple[RunTime, ...]
    """The runs that the score keeps; all converged ones where the score is provisional."""
    converged: tuple[RunTime, ...]
    """Every converged run."""
    unit: str
    """``samples``, ``tokens``, ``steps``, ``generations`` or ``epochs``."""
    batch: int | None
    accelerators: int | None
    against_reference: float | None
    """Progress to target divided by the reference point's; below 1 is faster convergence."""

    @property
    def minutes(self) -> float:
        return _mean([run.minutes for run in self.runs])

    @property
    def start(self) -> float:
        return _mean([run.start for run in self.runs])

    @property
    def training(self) -> float:
        return _mean([run.training for run in self.runs])

    @property
    def evaluation(self) -> float | None:
        return _mean_of_known([run.evaluation for run in self.runs])

    @property
    def init(self) -> float | None:
        return _mean_of_known([run.init for run in self.runs])

    @property
    def amount(self) -> float | None:
        return _mean_of_known([run.amount for run in self.runs])

    @property
    def spread(self) -> float | None:
        """Standard deviation of the samples to target over all converged runs, as a share."""
        amounts = [run.amount for run in self.converged if run.amount is not None]
        if len(amounts) < 2 or len(amounts) < len(self.converged):
            return None
        return standard_deviation(amounts) / _mean(amounts)

    @property
    def rate(self) -> float | None:
        """Samples per second of training, over all accelerators."""
        return self.amount / self.training / 60 if self.amount and self.training > 0 else None

    @property
    def rate_per_accelerator(self) -> float | None:
        return self.rate / self.accelerators if self.rate and self.accelerators else None

    @property
    def evaluation_share(self) -> float | None:
        """Evaluation's share of the minutes."""
        return None if self.evaluation is None else self.evaluation / self.minutes

    @property
    def init_share(self) -> float | None:
        """Share of the initialization in initialization and minutes together."""
        return None if self.init is None else self.init / (self.init + self.minutes)

    def as_json(self) -> dict[str, Any]:
        """Return the fields and figures as plain JSON values."""
        names: tuple[str, ...] = (
            "minutes",
            "start",
            "training",
            "evaluation",
            "init",
            "amount",
            "spread",
            "rate",
        )
        names += ("rate_per_accelerator", "evaluation_share", "init_share")
        figures: dict[str, Any] = finite(asdict(self) | {n: getattr(self, n) for n in names})
        figures.pop("converged")
        return figures


def time_parts(result: ResultSet, item: Score) -> TimeParts | None:
    """Split a result's minutes.

    Args:
        result: The runs.
        item: Their score.

    Returns:
        The parts; None without a converged run.
    """
    unit, factor = _unit(result, item)
    logs = {str(run.path): run.log for run in result.runs}
    converged = [
        _run_time(judged.name, logs[judged.path], judged.progress, item.progress_unit, factor)
        for judged in sorted(item.runs, key=lambda judged: judged.minutes)
        if judged.outcome == CONVERGED
    ]
    drop = len(item.dropped_fast)
    counted = sum(run.counts for run in item.runs)
    kept = converged[drop : max(drop, counted - drop)] or converged
    if not kept:
        return None
    return TimeParts(
        runs=tuple(kept),
        converged=tuple(converged),
        unit=unit,
        batch=item.global_batch_size,
        accelerators=item.accelerators,
        against_reference=_against_reference(item),
    )


def _unit(result: ResultSet, item: Score) -> tuple[str, float]:
    """Return the unit of the amount, and how many of it one unit of logged progress is."""
    unit = item.progress_unit
    if unit == "steps" and item.global_batch_size:
        return "samples", item.global_batch_size
    if unit not in ("epochs", "epochs_from_one"):
        return unit, 1
    logged = result.runs[0].log.facts.get("train_samples") if result.runs else None
    size: Any = logged if isinstance(logged, int | float) and logged > 0 else None
    if not result.is_own:
        size = SAMPLES_PER_EPOCH.get(task_of(item.benchmark, item.round), size)
    return ("epochs", 1) if size is None else ("samples", float(size))


def _run_time(name: str, log: RunLog, progress: float, unit: str, factor: float) -> RunTime:
    epochs = progress - 1 if unit == "epochs_from_one" else progress
    amount = epochs * factor if math.isfinite(epochs) and epochs > 0 else None
    return RunTime(name, *parts_of_log(log), amount)


def parts_of_log(log: RunLog) -> tuple[float, float, float, float | None, float | None]:
    """Split the minutes of one log without problems.

    Args:
        log: The log; its ``seconds`` are known.

    Returns:
        Minutes from run_start to run_stop; those of start, training and evaluation (None where it
        is not logged), which add up to them; and of the initialization before run_start.
    """
    assert log.start is not None
    assert log.seconds is not None
    begin, total = log.start.time_ms, log.seconds / 60
    end = begin + log.seconds * 1000
    evaluation = _covered(log.eval_spans, begin, end) / 60_000 if log.eval_spans else None
    start = _start_minutes(log, begin, total - (evaluation or 0.0))
    training = max(0.0, total - start - (evaluation or 0.0))
    init = None if log.init_start_ms is None else max(0.0, (begin - log.init_start_ms) / 60_000)
    return total, start, training, evaluation, init


def _start_minutes(log: RunLog, begin: float, most: float) -> float:
    """Return minutes from run_start to the first epoch; 0 where the log does not mark it."""
    first = log.train_start_ms
    # Some log no first epoch or block, but only those that follow an evaluation.
    if first is None or any(e.time_ms <= first for e in log.evaluations[:1]):
        return 0.0
    return min(max(0.0, (first - begin) / 60_000), most)


def _covered(spans: Sequence[tuple[float, float]], begin: float, end: float) -> float:
    """Return how much of an interval some spans cover; where they overlap it counts once."""
    total, reached = 0.0, begin
    for start, stop in sorted(spans):
        start, stop = max(start, reached), min(stop, end)
        if stop > start:
            total, reached = total + stop - start, stop
    return total


def _against_reference(item: Score) -> float | None:
    verdict = next(iter(item.rcp.values()), None)
    if verdict is None or verdict.mean is None or not verdict.reference_mean:
        return None
    # DLRM's epochs are counted from 1, in the reference as well.
    offset = 1 if item.progress_unit == "epochs_from_one" else 0
    return (verdict.mean - offset) / (verdict.reference_mean - offset)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _mean_of_known(values: Sequence[float | None]) -> float | None:
    """Return the mean; None if one value is not known."""
    known = [value for value in values if value is not None]
    return _mean(known) if known and len(known) == len(values) else None
