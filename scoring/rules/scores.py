"""Scores a result set: the minutes, how sure they are, the convergence test."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from scoring.rules.convergence import Verdict, flavours, rcp_test
from scoring.rules.findings import SEEDS_SINCE, logged_seeds, repeated_seeds
from scoring.rules.judged_runs import CONVERGED, REJECTED, JudgedRun, judge_run
from scoring.rules.olympic import bootstrap_interval, olympic, standard_deviation
from scoring.rules.rounds import BenchmarkRules, Round, load_round
from scoring.runs.found_round import FoundRound
from scoring.runs.result_sets import ResultSet
from scoring.runs.settings import differing_settings

NONE = (None, None)
VALID = "valid"
CONSENT = "valid; convergence test failed: needs the review's consent"


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
    """What is missing beside the runs, such as a system description."""

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
    counted = [run for run in runs if run.counts]
    required, drop = (bench.runs, bench.drop) if bench else (len(counted), 1)
    best = olympic([run.minutes for run in counted], drop)
    failed = sum(run.outcome != CONVERGED for run in counted)
    batches = {run.batch for run in counted if run.batch is not None}
    batch = batches.pop() if len(batches) == 1 else None
    rcp = _convergence(result, counted, batch, bench, rules)
    mixed = len(batches) > 0 and batch is None
    reasons = _reasons(counted, result, bench, failed, rcp, mixed, rules)
    missing = max(0, required - len(counted))
    consent = _needs_consent(result, rcp)
    verdict = "invalid" if reasons else "incomplete" if missing else CONSENT if consent else VALID
    factor, why = _scaling(result, rcp, rules)
    converged = [run.minutes for run in counted if run.outcome == CONVERGED]
    # More failures than may be dropped can never become a score, so there is no provisional one.
    early = best is None and missing > 0 and bool(converged) and failed <= drop
    progress = olympic([run.progress for run in counted], drop)
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
        verdict=verdict,
        reasons=(*reasons, *consent, *_missing(missing, runs), *_more(counted, bench, rules)),
        minutes=best.mean * factor if best else None,
        raw_minutes=best.mean if best else None,
        scaling=factor,
        scaling_reason=why,
        provisional_minutes=math.fsum(converged) / len(converged) if early else None,
        interval=bootstrap_interval([r.minutes * factor for r in counted], drop) if best else NONE,
        fastest=min(converged, default=None),
        slowest=max(converged, default=None),
        spread=standard_deviation(best.kept) * factor if best and len(best.kept) > 1 else None,
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
        settings=_differences(result, runs),
        runs=runs,
        remarks=tuple(result.remarks),
    )


def _differences(result: ResultSet, runs: tuple[JudgedRun, ...]) -> tuple[str, ...]:
    counted = [run for run, judged in zip(result.runs, runs, strict=True) if judged.counts]
    return differing_settings(counted)


def _missing(missing: int, runs: tuple[JudgedRun, ...]) -> list[str]:
    left_out = sum(not run.counts for run in runs)
    reasons = [f"runs still needed: {missing}"] if missing else []
    return reasons + ([f"runs left out: {left_out}"] if left_out and missing else [])


def _reasons(
    counted: list[JudgedRun],
    result: ResultSet,
    bench: BenchmarkRules | None,
    failed: int,
    rcp: dict[str, Verdict],
    mixed: bool,
    rules: Round,
) -> list[str]:
    if bench is None:
        return [*result.problems, f"this round has no benchmark {result.benchmark!r}"]
    reasons = [*result.problems, *result.unreadable, *_scaling_problem(result, rules)]
    if failed > bench.drop:
        rejected = sum(run.outcome == REJECTED for run in counted)
        by_whom = f" ({rejected} of them rejected by the official checker)" if rejected else ""
        reasons.append(f"runs that did not converge: {failed}{by_whom}; at most {bench.drop} may")
    if len(counted) > bench.runs and not rules.more_runs:
        reasons.append(f"{len(counted)} runs found; a result has exactly {bench.runs}")
    dishonest = [run.clock for run in counted if run.clock]
    if dishonest:
        reasons.append(f"the clock of {len(dishonest)} runs cannot be right: {dishonest[0]}")
    if mixed:
        reasons.append("the runs have different global batch sizes")
    if bench.rcp and not (rcp or mixed or result.demo) and counted and result.division == "closed":
        reasons.append("the logs have no global batch size, so the convergence test cannot be made")
    if result.division is None and counted:
        reasons.append("the logs do not name the division (closed or open)")
    then = rcp.get("then")
    if then and then.other_unit and not result.published:
        reasons.append(then.text)
    if then and then.passed is False and len(counted) >= bench.runs and not result.published:
        reasons.append(f"convergence test failed: {then.text}")
    return [*reasons, *_seed_reasons(result, rules)]


def _seed_reasons(result: ResultSet, rules: Round) -> list[str]:
    """Say which runs lack or share a seed, as ``check`` does; copies are left out anyway."""
    if not rules.unique_seeds or result.division != "closed" or result.demo:
        return []
    runs = [run for run in result.runs if run.copy_of is None]
    found = repeated_seeds(runs)
    reasons = [f"{run.name}: seed {found[id(run)][0].found}" for run in runs if id(run) in found]
    without = sum(run.log.events > 0 and not logged_seeds(run) for run in runs)
    # The review has passed a published one.
    if rules.logged_seeds and without and not result.published:
        reasons.append(f"runs without a logged seed: {without}; from {SEEDS_SINCE} on each has one")
    return reasons


def _scaling_problem(result: ResultSet, rules: Round) -> list[str]:
    return [result.scaling_problem] if result.scaling_problem and rules.review_scales else []


def _needs_consent(result: ResultSet, rcp: dict[str, Verdict]) -> list[str]:
    """Say why a published result, which the review passed all the same, fails the test."""
    then = rcp.get("then")
    if not result.published or then is None or not (then.other_unit or then.passed is False):
        return []
    return [f"convergence test failed: {then.text}"]


def _more(counted: list[JudgedRun], bench: BenchmarkRules | None, rules: Round) -> list[str]:
    if bench is None or not rules.more_runs or len(counted) <= bench.runs:
        return []
    return [f"{len(counted)} runs; {rules.name} asks for at least {bench.runs}, and all count"]


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


def _convergence(
    result: ResultSet,
    counted: list[JudgedRun],
    batch: int | None,
    bench: BenchmarkRules | None,
    rules: Round,
) -> dict[str, Verdict]:
    """Make both variants of the test; open division and generated data have none."""
    if bench is None or not bench.rcp or batch is None or result.division == "open" or result.demo:
        return {}
    values = [run.progress for run in counted]
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
