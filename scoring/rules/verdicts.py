"""Whether a result is valid, and every reason why it is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scoring.rules.convergence import Verdict
from scoring.rules.findings import SEEDS_SINCE, logged_seeds, repeated_seeds
from scoring.rules.judged_runs import CONVERGED, REJECTED, JudgedRun
from scoring.rules.rounds import BenchmarkRules, Round
from scoring.runs.result_sets import ResultSet

VALID, INVALID = "valid", "invalid"
CONSENT = "valid; convergence test failed: needs the review's consent"


@dataclass(frozen=True)
class JudgedResult:
    """A result's runs under its round's rules, and what follows from them."""

    result: ResultSet
    rules: Round
    bench: BenchmarkRules | None
    runs: tuple[JudgedRun, ...]

    @property
    def counted(self) -> list[JudgedRun]:
        return [run for run in self.runs if run.counts]

    @property
    def converged(self) -> list[float]:
        return [run.minutes for run in self.counted if run.outcome == CONVERGED]

    @property
    def failed(self) -> int:
        return len(self.counted) - len(self.converged)

    @property
    def required(self) -> int:
        return self.bench.runs if self.bench else len(self.counted)

    @property
    def drop(self) -> int:
        return self.bench.drop if self.bench else 1

    @property
    def missing(self) -> int:
        return max(0, self.required - len(self.counted))

    @property
    def batches(self) -> set[int]:
        return {run.batch for run in self.counted if run.batch is not None}

    @property
    def batch(self) -> int | None:
        return next(iter(self.batches)) if len(self.batches) == 1 else None


def verdict_of(judged: JudgedResult, rcp: dict[str, Verdict]) -> dict[str, Any]:
    """Return ``verdict`` and ``reasons`` of a score."""
    invalid, consent = _reasons(judged, rcp), _needs_consent(judged.result, rcp)
    verdict = CONSENT if consent else VALID
    verdict = INVALID if invalid else "incomplete" if judged.missing else verdict
    return {
        "verdict": verdict,
        "reasons": (*invalid, *consent, *_missing(judged), *_more(judged)),
    }


def _missing(judged: JudgedResult) -> list[str]:
    if not judged.missing:
        return []
    left_out = len(judged.runs) - len(judged.counted)
    reasons = [f"runs still needed: {judged.missing}"]
    return reasons + ([f"runs left out: {left_out}"] if left_out else [])


def _reasons(judged: JudgedResult, rcp: dict[str, Verdict]) -> list[str]:
    """Say why a result is invalid, one sentence each."""
    result, rules, bench = judged.result, judged.rules, judged.bench
    if bench is None:
        return [*result.problems, f"this round has no benchmark {result.benchmark!r}"]
    reasons = [*result.problems, *result.unreadable, *_scaling_problem(result, rules)]
    reasons += [*_reasons_of_runs(judged, bench), *_reasons_of_facts(judged, bench, rcp)]
    if not result.published:  # the review has passed a published one
        reasons += _reasons_of_test(judged, bench, rcp.get("then"))
    return [*reasons, *_seed_reasons(result, rules)]


def _reasons_of_runs(judged: JudgedResult, bench: BenchmarkRules) -> list[str]:
    counted, reasons = judged.counted, []
    if judged.failed > bench.drop:
        rejected = sum(run.outcome == REJECTED for run in counted)
        by_whom = f" ({rejected} of them rejected by the official checker)" if rejected else ""
        reasons.append(
            f"runs that did not converge: {judged.failed}{by_whom}; at most {bench.drop} may"
        )
    if len(counted) > bench.runs and not judged.rules.more_runs:
        reasons.append(f"{len(counted)} runs found; a result has exactly {bench.runs}")
    dishonest = [run.clock for run in counted if run.clock]
    if dishonest:
        reasons.append(f"the clock of {len(dishonest)} runs cannot be right: {dishonest[0]}")
    return reasons


def _reasons_of_facts(
    judged: JudgedResult, bench: BenchmarkRules, rcp: dict[str, Verdict]
) -> list[str]:
    result, counted, reasons = judged.result, judged.counted, []
    mixed = len(judged.batches) > 1
    if mixed:
        reasons.append("the runs have different global batch sizes")
    if bench.rcp and not (rcp or mixed or result.demo) and counted and result.division == "closed":
        reasons.append("the logs have no global batch size, so the convergence test cannot be made")
    copies = sum(run.copy_of is not None for run in result.runs)
    if result.published and copies:
        reasons.append(f"runs that are copies of others, and that count as published: {copies}")
    if result.rejected:
        words = "runs that the official checker rejects, and that count as published"
        reasons.append(f"{words}: {result.rejected}")
    if result.division is None and counted:
        reasons.append("the logs do not name the division (closed or open)")
    return reasons


def _reasons_of_test(
    judged: JudgedResult, bench: BenchmarkRules, then: Verdict | None
) -> list[str]:
    if then is not None and then.other_unit:
        return [then.text]
    if then is not None and then.passed is False and len(judged.counted) >= bench.runs:
        return [f"convergence test failed: {then.text}"]
    return []


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
    if not result.published or then is None:
        return []
    # One that trained much longer than the reference passes.
    far_below = then.other_unit and (then.mean or 0) < (then.reference_mean or 0)
    failed = far_below or then.passed is False
    return [f"convergence test failed: {then.text}"] if failed else []


def _more(judged: JudgedResult) -> list[str]:
    count, bench, rules = len(judged.counted), judged.bench, judged.rules
    if bench is None or not rules.more_runs or count <= bench.runs:
        return []
    return [f"{count} runs; {rules.name} asks for at least {bench.runs}, and all count"]
