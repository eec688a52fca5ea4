"""Judges single runs: whether they count, converged, and how far they trained."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scoring.rules.clock import clock_fault, unit_fault
from scoring.rules.rounds import BenchmarkRules
from scoring.rules.schedule import amount
from scoring.runs.logs import is_number
from scoring.runs.result_sets import ResultSet
from scoring.runs.run import Run

CONVERGED = "converged"
NOT_CONVERGED = "not converged"
BROKEN = "broken"
REJECTED = "rejected"
LEFT_OUT = "left out"


@dataclass(frozen=True)
class JudgedRun:
    """One run as the score sees it."""

    name: str
    path: str
    outcome: str
    """``converged``, ``not converged`` or ``left out``; ``broken`` and, by the official checker,
    ``rejected`` count as not converged."""
    minutes: float
    """Infinity unless converged."""
    progress: float
    """Progress to target in the benchmark's unit; infinity unless converged or rejected: the
    official convergence test takes every log that says success."""
    quality: dict[str, float]
    """The last evaluation's metrics."""
    batch: int | None
    notes: tuple[str, ...] = ()
    clock: str | None = None
    """Why the time cannot be what the run took; the result is invalid, its minutes as logged."""

    @property
    def counts(self) -> bool:
        return self.outcome != LEFT_OUT


def judge_run(run: Run, result: ResultSet, rules: BenchmarkRules | None) -> JudgedRun:
    """Decide what one run contributes.

    Args:
        run: The run.
        result: The set it belongs to.
        rules: The benchmark's rules; None if the round does not know the benchmark.

    Returns:
        The run's outcome, minutes and notes.
    """
    log = run.log
    outcome, notes = _outcome(run, result, rules)
    seconds = log.seconds
    good = outcome == CONVERGED and seconds is not None
    reached = outcome in (CONVERGED, REJECTED) and seconds is not None
    quality = _named_quality(run, _last_quality(run), rules)
    clock = clock_fault(log, rules) if good else None
    return JudgedRun(
        name=run.name,
        path=str(run.path),
        outcome=outcome,
        minutes=seconds / 60 if good and seconds is not None else math.inf,
        progress=_progress_to_target(run, rules) if reached and rules else math.inf,
        quality=quality,
        batch=log.global_batch_size,
        notes=(*notes, *filter(None, [clock]), *log.warnings),
        clock=clock,
    )


def _outcome(
    run: Run, result: ResultSet, rules: BenchmarkRules | None
) -> tuple[str, tuple[str, ...]]:
    log = run.log
    if reason := _left_out(run, result):
        return LEFT_OUT, (reason,)
    if run.record_problem or log.problems:
        return BROKEN, (*filter(None, [run.record_problem]), *log.problems)
    if log.benchmark and log.benchmark != result.benchmark:
        return BROKEN, (f"is a {log.benchmark} log in a {result.benchmark} result",)
    if result.division == "closed" and log.division == "open":
        return BROKEN, ("is an open log in a result of the closed division",)
    if fault := unit_fault(log):
        return BROKEN, (fault,)
    if log.status != "success":
        return NOT_CONVERGED, (_why_not(run, rules),)
    if (
        rules
        and result.division != "open"
        and not any(rules.reached(e.quality, log.global_batch_size) for e in log.evaluations)
    ):
        return BROKEN, (_never_reached(run, rules),)
    if run.rejected:
        return REJECTED, (run.rejected,)
    return CONVERGED, (*([_copy_note(run)] if run.copy_of else []), *_record_notes(run))


def _left_out(run: Run, result: ResultSet) -> str | None:
    """Why a run is not a result at all; None if it is one."""
    if run.log.unreadable and not run.is_own:
        return f"cannot be read: {run.log.unreadable}"
    if run.copy_of and not result.published:  # the published minutes are also made of those
        return _copy_note(run)
    if run.fact("resumed") or run.fact("status") == "RESUMED":
        return "resumed run: its clock was interrupted, so it is never a timed result"
    if run.is_own and not run.log.starts:
        return "ended before its clock started"
    if run.fact("status") == "running" and not run.log.stops:
        return "has not ended: still running, or killed"
    if run.fact("stop_reason") == "INTERRUPTED":
        return "interrupted by hand, so neither a result nor a failure to converge"
    return run.log.encoding_problem


def _copy_note(run: Run) -> str:
    return f"a copy of {run.copy_of}: the same seed and the same start"


def _why_not(run: Run, rules: BenchmarkRules | None) -> str:
    reason = run.fact("stop_reason")
    quality = _named_quality(run, _last_quality(run), rules)
    reached = ", ".join(f"{name} {value:.4g}" for name, value in quality.items())
    text = f"ended with status {run.log.status or 'unknown'}"
    return text + (f" ({reason})" if reason else "") + (f" at {reached}" if reached else "")


def _never_reached(run: Run, rules: BenchmarkRules) -> str:
    text = "run_stop says success, but no evaluation reached the target"
    values = [value for e in run.log.evaluations for value in e.quality.values()]
    if rules.mode == "max" and rules.bound is not None and max(values, default=0) > rules.bound:
        text += f"; {max(values):g} is above {rules.bound:g}: is the log in percent?"
    return text


def _record_notes(run: Run) -> tuple[str, ...]:
    recorded = run.fact("seconds_to_target")
    if isinstance(recorded, int | float) and run.log.seconds is not None:
        apart = abs(recorded - run.log.seconds)
        if apart > 1:
            return (f"run.json's time differs from the log's by {apart:.1f} s; the log counts",)
    return ()


def _last_quality(run: Run) -> dict[str, float]:
    before = run.log.evaluations_in_time
    return before[-1].quality if before else {}


def _named_quality(
    run: Run, quality: dict[str, float], rules: BenchmarkRules | None
) -> dict[str, float]:
    """Give a scalar evaluation its metric's name, by the run's own target or the benchmark's."""
    names = list(run.fact("target") or (rules.target if rules else {}))
    if list(quality) == ["value"] and len(names) == 1:
        return {names[0]: quality["value"]}
    return quality


def _progress_to_target(run: Run, rules: BenchmarkRules) -> float:
    """Return the last evaluation's progress, in the benchmark's unit; infinity if not logged."""
    evaluations = run.log.evaluations_in_time
    last = amount(evaluations[-1], rules) if evaluations else None
    if rules.asynchronous:
        # Checkpoints evaluated after the clock: the first passing one is where the run ended.
        passing = (amount(e, rules) for e in run.log.evaluations if rules.reached(e.quality))
        last = min((each for each in passing if each is not None), default=last)
    # Of bert's samples some log the count as epoch_num and some as train_samples.
    if rules.progress == "samples" and (last is None or last <= 1):
        trained = run.log.facts.get("train_samples")
        last = float(trained) if is_number(trained) else None
    return math.inf if last is None else last
