"""Scores a result set: the minutes, how sure they are, the convergence test."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from scoring.rules.convergence import Verdict, flavours, rcp_test
from scoring.rules.judged_runs import CONVERGED, JudgedRun, judge_run
from scoring.rules.olympic import bootstrap_interval, olympic, standard_deviation
from scoring.rules.rounds import Round, load_round
from scoring.rules.verdicts import CONSENT as CONSENT
from scoring.rules.verdicts import VALID as VALID
from scoring.rules.verdicts import JudgedResult, verdict_of
from scoring.runs.found_round import FoundRound
from scoring.runs.result_sets import ResultSet
from scoring.runs.settings import differing_settings

NONE = (None, None)


@dataclass(frozen=True)
class Score:
    """The score of one result set. Times are minutes; None where there is no figure."""

    benchmark: str
    division: str | None
    demo: bool
    submitter: str
    system: str
    path: str
    round: str
    round_reason: str
    """Why it was judged by this round."""
    accelerators: int | None
    configuration: str
    """Network, batch and devices, where another result has the same name."""
    verdict: str
    """``VALID``, ``CONSENT`` (published, but the convergence test fails),
    ``incomplete`` (runs missing; minutes are provisional) or ``invalid``."""
    reasons: tuple[str, ...]
    """Why it is not valid, one sentence each."""
    minutes: float | None
    """The score: the mean minutes times ``scaling``."""
    raw_minutes: float | None
    """The mean minutes as timed."""
    scaling: float
    scaling_reason: str
    """Where the factor is from, or why a published one is not applied; else empty."""
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
    """Settings in which the runs that count differ although they should not."""
    runs: tuple[JudgedRun, ...] = field(default=())
    remarks: tuple[str, ...] = ()
    """Files missing next to the runs, such as a system description."""

    @property
    def name(self) -> str:
        """Name in tables."""
        return f"{self.submitter} {self.system}".strip()

    @property
    def found_round(self) -> FoundRound:
        """The round it was judged by, and why."""
        return FoundRound(self.round, self.round_reason)

    @property
    def provisional(self) -> str:
        """How many runs the minutes are of, where the rules require more; else empty."""
        timed = [run for run in self.runs if run.outcome == CONVERGED]
        if not self.runs_missing or (self.minutes is None and self.provisional_minutes is None):
            return ""
        return f"({len(timed)} of {self.runs_required} runs, provisional)"

    @property
    def times(self) -> list[float]:
        """Minutes of every run that counts; infinity for one that did not converge."""
        return [run.minutes for run in self.runs if run.counts]

    def as_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values; infinity and NaN become null.

        Returns:
            Field -> value.
        """
        plain: dict[str, Any] = finite(asdict(self))
        return plain


def finite(value: Any) -> Any:
    """Replace values that JSON cannot represent.

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


def score(result: ResultSet, rules: Round | None = None) -> Score:
    """Score one result set under a round's rules.

    Args:
        result: Runs of one benchmark, system and configuration.
        rules: The round; the one found for the result by default.

    Returns:
        The score, with every reason why it is not valid.
    """
    found = result.round
    if rules is None:
        assert found is not None, "find_rounds comes first"
        rules = load_round(found.name)
    bench = rules.benchmarks.get(result.benchmark)
    runs = tuple(judge_run(run, result, bench) for run in result.runs)
    judged = JudgedResult(result, rules, bench, runs)
    rcp = _convergence(judged)
    return Score(
        benchmark=result.benchmark,
        division=result.division,
        demo=result.demo,
        submitter=result.submitter,
        system=result.system,
        path=str(result.path),
        round=rules.name,
        round_reason=found.reason if found and found.name == rules.name else "given",
        accelerators=result.accelerators,
        configuration=result.configuration,
        runs_required=judged.required,
        runs_found=len(judged.counted),
        runs_missing=judged.missing,
        runs_extra=max(0, len(judged.counted) - judged.required),
        not_converged=judged.failed,
        not_converged_allowed=judged.drop,
        global_batch_size=judged.batch,
        progress_unit=bench.progress if bench else "epochs",
        quality_mean=_quality_mean(judged.counted),
        rcp=rcp,
        settings=_differences(judged),
        runs=runs,
        remarks=tuple(result.remarks),
        **verdict_of(judged, rcp),
        **_times(judged, *_scaling(result, rcp, rules)),
    )


def _times(judged: JudgedResult, factor: float, why: str) -> dict[str, Any]:
    """Return the minutes of a score, with the factor on them, and the progress."""
    counted, converged, drop = judged.counted, judged.converged, judged.drop
    best = olympic([run.minutes for run in counted], drop)
    # More failures than may be dropped can never become a score, so there is no provisional one.
    early = best is None and judged.missing > 0 and bool(converged) and judged.failed <= drop
    progress = olympic([run.progress for run in counted], drop)
    return {
        "minutes": best.mean * factor if best else None,
        "raw_minutes": best.mean if best else None,
        "scaling": factor,
        "scaling_reason": why,
        "provisional_minutes": math.fsum(converged) / len(converged) if early else None,
        "interval": bootstrap_interval([r.minutes * factor for r in counted], drop)
        if best
        else NONE,
        "fastest": min(converged, default=None),
        "slowest": max(converged, default=None),
        "spread": standard_deviation(best.kept) * factor if best and len(best.kept) > 1 else None,
        "dropped_fast": best.dropped_low if best else (),
        "dropped_slow": tuple(finite(list(best.dropped_high))) if best else (),
        "mean_progress": progress.mean if progress else None,
    }


def _differences(judged: JudgedResult) -> tuple[str, ...]:
    pairs = zip(judged.result.runs, judged.runs, strict=True)
    return differing_settings([run for run, seen in pairs if seen.counts])


def _scaling(result: ResultSet, rcp: dict[str, Verdict], rules: Round) -> tuple[float, str]:
    """Return the factor of the score and where it is from; 1 in rounds without one."""
    given = result.scaling
    if given is not None:
        if rules.review_scales:
            return given, "scaling.json"
        return 1.0, f"scaling.json ({given:.6g}) is not applied in {rules.name}"
    then = rcp.get("then")
    # The review has written the factor of a published result where there is one.
    if not rules.scaled or result.published or then is None or then.scaling == 1:
        return 1.0, ""
    return then.scaling, "convergence faster than the reference's mean"


def _convergence(judged: JudgedResult) -> dict[str, Verdict]:
    """Make both variants of the test; open division and generated data have none."""
    result, bench, rules, batch = judged.result, judged.bench, judged.rules, judged.batch
    if bench is None or not bench.rcp or batch is None or result.division == "open" or result.demo:
        return {}
    values = [run.progress for run in judged.counted]
    return {
        f.name: rcp_test(values, batch, bench, rules.rcp_ruleset, f) for f in flavours(rules.name)
    }


def _quality_mean(counted: list[JudgedRun]) -> dict[str, float]:
    """Geometric mean of each metric over the runs that have it; non-positive values give 0."""
    means = {}
    for name in sorted({name for run in counted for name in run.quality}):
        values = [run.quality[name] for run in counted if name in run.quality]
        positive = all(value > 0 for value in values)
        logs = [math.log(value) for value in values] if positive else []
        means[name] = math.exp(math.fsum(logs) / len(logs)) if positive else 0.0
    return means
