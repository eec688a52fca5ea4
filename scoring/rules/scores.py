"""Scores a result set: which runs count, the minutes, how sure they are, the convergence test."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from scoring.rules.convergence import FLAVOURS, Verdict, rcp_test
from scoring.rules.olympic import bootstrap_interval, olympic, standard_deviation
from scoring.rules.rounds import BenchmarkRules, Round
from scoring.runs.result_sets import ResultSet, Run
from scoring.runs.settings import differing_settings

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

    @property
    def counts(self) -> bool:
        return self.outcome != LEFT_OUT


@dataclass(frozen=True)
class Score:
    """The score of one result set. Minutes throughout; None where nothing can be said."""

    benchmark: str
    division: str | None
    demo: bool
    submitter: str
    system: str
    path: str
    round: str
    accelerators: int | None
    configuration: str
    """Network, batch and devices, where another result has the same name."""
    verdict: str
    """``valid``, ``incomplete`` (runs missing; minutes are provisional) or ``invalid``."""
    reasons: tuple[str, ...]
    """Why it is not valid, one sentence each."""
    minutes: float | None
    provisional_minutes: float | None
    """Plain mean of the timed runs where runs are missing for ``minutes``; else None."""
    interval: tuple[float | None, float | None]
    """95 % bootstrap interval of the minutes."""
    fastest: float | None
    slowest: float | None
    """Slowest converged run."""
    spread: float | None
    """Standard deviation of the runs that count."""
    runs_required: int
    runs_found: int
    runs_missing: int
    runs_extra: int
    not_converged: int
    not_converged_allowed: int
    dropped_fast: tuple[float, ...]
    dropped_slow: tuple[float | None, ...]
    global_batch_size: int | None
    progress_unit: str
    mean_progress: float | None
    quality_mean: dict[str, float]
    """Geometric mean of the final quality per metric, as the open division reports it."""
    rcp: dict[str, Verdict]
    """Convergence test, ``then`` and ``now``; empty where it does not apply."""
    settings: tuple[str, ...] = ()
    """Settings in which the runs that count differ: not one configuration, strictly."""
    runs: tuple[JudgedRun, ...] = field(default=())

    @property
    def name(self) -> str:
        """What a table calls it."""
        return f"{self.submitter} {self.system}".strip()

    @property
    def provisional(self) -> str:
        """How many runs the minutes rest on, where the rules want more; else empty."""
        timed = [run for run in self.runs if run.outcome == CONVERGED]
        if not self.runs_missing or (self.minutes is None and self.provisional_minutes is None):
            return ""
        return f"({len(timed)} of {self.runs_required} runs, provisional)"

    @property
    def times(self) -> list[float]:
        """Minutes of every run that counts; infinity for one that did not converge."""
        return [run.minutes for run in self.runs if run.counts]

    def as_json(self) -> dict[str, Any]:
        """The score as plain JSON values; infinity and NaN become null.

        Returns:
            A dictionary of the dataclass's fields.
        """
        plain: dict[str, Any] = finite(asdict(self))
        return plain


def finite(value: Any) -> Any:
    """Replace what JSON cannot hold.

    Args:
        value: Nested dictionaries, lists, tuples and scalars.

    Returns:
        The same with tuples as lists and infinity and NaN as None.
    """
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def judge_run(run: Run, found: ResultSet, rules: BenchmarkRules | None) -> JudgedRun:
    """Decide what one run contributes.

    Args:
        run: The run.
        found: The set it belongs to.
        rules: The benchmark's rules; None if the round does not know the benchmark.

    Returns:
        The run's outcome, minutes and what should be said about it.
    """
    log = run.log
    outcome, notes = _outcome(run, found, rules)
    seconds = log.seconds
    good = outcome == CONVERGED and seconds is not None
    reached = outcome in (CONVERGED, REJECTED) and seconds is not None
    quality = named_quality(run, _last_quality(run), rules)
    return JudgedRun(
        name=run.name,
        path=str(run.folder if run.is_own else log.path),
        outcome=outcome,
        minutes=seconds / 60 if good and seconds is not None else math.inf,
        progress=progress_to_target(run, rules) if reached and rules else math.inf,
        quality=quality,
        batch=log.global_batch_size,
        notes=(*notes, *log.warnings),
    )


def _outcome(
    run: Run, found: ResultSet, rules: BenchmarkRules | None
) -> tuple[str, tuple[str, ...]]:
    log = run.log
    if reason := _left_out(run):
        return LEFT_OUT, (reason,)
    if run.record_problem or log.problems:
        return BROKEN, (*filter(None, [run.record_problem]), *log.problems)
    if log.benchmark and log.benchmark != found.benchmark:
        return BROKEN, (f"is a {log.benchmark} log in a {found.benchmark} result",)
    if found.division == "closed" and log.division == "open":
        return BROKEN, ("is an open log in a result of the closed division",)
    if log.status != "success":
        return NOT_CONVERGED, (_why_not(run, rules),)
    if (
        rules
        and found.division != "open"
        and not any(rules.reached(e.quality, log.global_batch_size) for e in log.evaluations)
    ):
        return BROKEN, (_never_reached(run, rules),)
    if run.rejected:
        return REJECTED, (run.rejected,)
    return CONVERGED, _record_notes(run)


def _left_out(run: Run) -> str | None:
    """Why a run of ours is no run result at all, or None."""
    if run.copy_of:
        return f"a copy of {run.copy_of}: the same seed and the same start"
    if run.fact("resumed") or run.fact("status") == "RESUMED":
        return "resumed run: its clock did not run through, so it is never a timed result"
    if run.is_own and not run.log.starts:
        return "ended before its clock started"
    if run.fact("status") == "running" and not run.log.stops:
        return "has not ended: still running, or killed"
    if run.fact("stop_reason") == "INTERRUPTED":
        return "interrupted by hand, so neither a result nor a failure to converge"
    return run.log.encoding_problem


def _why_not(run: Run, rules: BenchmarkRules | None) -> str:
    reason = run.fact("stop_reason")
    quality = named_quality(run, _last_quality(run), rules)
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
    told = run.fact("seconds_to_target")
    if isinstance(told, int | float) and run.log.seconds is not None:
        apart = abs(told - run.log.seconds)
        if apart > 1:
            return (f"run.json's time differs from the log's by {apart:.1f} s; the log counts",)
    return ()


def _last_quality(run: Run) -> dict[str, float]:
    before = run.log.evaluations[: run.log.evaluations_before_stop or None]
    return before[-1].quality if before else {}


def named_quality(
    run: Run, quality: dict[str, float], rules: BenchmarkRules | None
) -> dict[str, float]:
    """Give a scalar evaluation its metric's name.

    Args:
        run: The run, whose record may name its own target.
        quality: One evaluation's metrics; a scalar is called ``value``.
        rules: The benchmark's rules.

    Returns:
        Metric -> value.
    """
    names = list(run.fact("target") or (rules.target if rules else {}))
    if list(quality) == ["value"] and len(names) == 1:
        return {names[0]: quality["value"]}
    return quality


def progress_to_target(run: Run, rules: BenchmarkRules) -> float:
    """How far a converged run trained, in the benchmark's unit.

    Args:
        run: A converged run.
        rules: The benchmark's rules.

    Returns:
        The last evaluation's ``epoch_num`` before run_stop; for bert the samples trained, which
        some log as ``epoch_num`` and some as ``train_samples``; infinity if the log does not say.
    """
    evaluations = run.log.evaluations[: run.log.evaluations_before_stop or None]
    last = evaluations[-1].progress if evaluations else None
    if rules.progress == "generations":
        # Mini Go evaluates after the clock: the first passing checkpoint is where the run ended.
        passing = (e.progress for e in run.log.evaluations if rules.reached(e.quality))
        last = next(passing, last)
    if rules.progress == "samples" and (last is None or last <= 1):
        trained = run.log.facts.get("train_samples")
        last = float(trained) if isinstance(trained, int | float) else None
    return math.inf if last is None else last


def score(found: ResultSet, rules: Round) -> Score:
    """Score one result set under a round's rules.

    Args:
        found: Runs of one benchmark, system and configuration.
        rules: The round.

    Returns:
        The score with every reason why it is not valid.
    """
    bench = rules.benchmarks.get(found.benchmark)
    runs = tuple(judge_run(run, found, bench) for run in found.runs)
    counted = [run for run in runs if run.counts]
    required, drop = (bench.runs, bench.drop) if bench else (len(counted), 1)
    best = olympic([run.minutes for run in counted], drop)
    failed = sum(run.outcome != CONVERGED for run in counted)
    batches = {run.batch for run in counted if run.batch is not None}
    batch = batches.pop() if len(batches) == 1 else None
    rcp = _convergence(found, counted, batch, bench, rules)
    reasons = _reasons(counted, found, bench, failed, rcp, len(batches) > 0 and batch is None)
    missing = max(0, required - len(counted))
    verdict = "invalid" if reasons else "incomplete" if missing else "valid"
    converged = [run.minutes for run in counted if run.outcome == CONVERGED]
    # More failures than may be dropped can never become a score, so they have no figure either.
    early = best is None and missing > 0 and bool(converged) and failed <= drop
    progress = olympic([run.progress for run in counted], drop)
    return Score(
        benchmark=found.benchmark,
        division=found.division,
        demo=found.demo,
        submitter=found.submitter,
        system=found.system,
        path=str(found.path),
        round=rules.name,
        accelerators=found.accelerators,
        configuration=found.configuration,
        verdict=verdict,
        reasons=(*reasons, *_missing(missing, runs)),
        minutes=best.mean if best else None,
        provisional_minutes=math.fsum(converged) / len(converged) if early else None,
        interval=bootstrap_interval([r.minutes for r in counted], drop) if best else (None, None),
        fastest=min(converged, default=None),
        slowest=max(converged, default=None),
        spread=standard_deviation(best.kept) if best else None,
        runs_required=required,
        runs_found=len(counted),
        runs_missing=missing,
        runs_extra=max(0, len(counted) - required),
        not_converged=failed,
        not_converged_allowed=drop,
        dropped_fast=best.dropped_low if best else (),
        dropped_slow=tuple(finite(list(best.dropped_high))) if best else (),
        global_batch_size=batch,
        progress_unit=bench.progress if bench else "epochs",
        mean_progress=progress.mean if progress else None,
        quality_mean=_quality_mean(counted),
        rcp=rcp,
        settings=differing_settings(
            [run for run, judged in zip(found.runs, runs, strict=True) if judged.counts]
        ),
        runs=runs,
    )


def _missing(missing: int, runs: tuple[JudgedRun, ...]) -> list[str]:
    left_out = sum(not run.counts for run in runs)
    reasons = [f"runs still needed: {missing}"] if missing else []
    return reasons + ([f"runs left out: {left_out}"] if left_out and missing else [])


def _reasons(
    counted: list[JudgedRun],
    found: ResultSet,
    bench: BenchmarkRules | None,
    failed: int,
    rcp: dict[str, Verdict],
    mixed: bool,
) -> list[str]:
    if bench is None:
        return [f"this round has no benchmark {found.benchmark!r}"]
    reasons = []
    if failed > bench.drop:
        rejected = sum(run.outcome == REJECTED for run in counted)
        told = f" ({rejected} of them rejected by the official checker)" if rejected else ""
        reasons.append(f"runs that did not converge: {failed}{told}; at most {bench.drop} may")
    if len(counted) > bench.runs:
        reasons.append(f"{len(counted)} runs found; a result has exactly {bench.runs}")
    if mixed:
        reasons.append("the runs have different global batch sizes")
    if bench.rcp and not (rcp or mixed or found.demo) and counted and found.division == "closed":
        reasons.append("the logs name no global batch size, so nothing can be said of convergence")
    if found.division is None and counted:
        reasons.append("the logs do not say which division this is (closed or open)")
    then = rcp.get("then")
    if then and then.passed is False and len(counted) >= bench.runs:
        reasons.append(f"convergence test failed: {then.text}")
    return reasons


def _convergence(
    found: ResultSet,
    counted: list[JudgedRun],
    batch: int | None,
    bench: BenchmarkRules | None,
    rules: Round,
) -> dict[str, Verdict]:
    """Both flavours of the test; open division and generated data have none."""
    if bench is None or not bench.rcp or batch is None or found.division == "open" or found.demo:
        return {}
    values = [run.progress for run in counted]
    return {f.name: rcp_test(values, batch, bench, rules.rcp_ruleset, f) for f in FLAVOURS}


def _quality_mean(counted: list[JudgedRun]) -> dict[str, float]:
    """Geometric mean of each metric over the runs that have it; non-positive values give 0."""
    means = {}
    for name in sorted({name for run in counted for name in run.quality}):
        values = [run.quality[name] for run in counted if name in run.quality]
        positive = all(value > 0 for value in values)
        logs = [math.log(value) for value in values] if positive else []
        means[name] = math.exp(math.fsum(logs) / len(logs)) if positive else 0.0
    return means
