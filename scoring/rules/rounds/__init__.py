"""The rules of each MLPerf Training round, one readable data file per round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from scoring.rules.rounds.benchmark_rules import BenchmarkRules as BenchmarkRules
from scoring.rules.rounds.official_tables import rcp_file, runs_per_result

FOLDER = Path(__file__).parent
SEED_SWITCHES = ("unique_seeds", "logged_seeds")
SWITCHES = (*SEED_SWITCHES, "more_runs", "review_scales", "scaled", "checker_is_verdict")


@dataclass(frozen=True)
class Round:
    """One round: the checker's ruleset and every benchmark's rules."""

    name: str
    released: str | None
    """Day of publication as ``YYYY-MM-DD``; None if not known."""
    checker_ruleset: str
    rcp_ruleset: str | None
    init_limit_minutes: Mapping[str, float]
    """Division -> longest initialisation."""
    divisions: tuple[str, ...]
    log_status_words: tuple[str, ...]
    benchmarks: Mapping[str, BenchmarkRules]
    unique_seeds: bool
    """No two closed runs of a result may share a seed."""
    logged_seeds: bool
    """Every closed run must log a seed."""
    more_runs: bool
    """A result may have more runs than required; the rules name a minimum."""
    review_scales: bool
    """The factor of a published ``scaling.json`` multiplies the minutes."""
    scaled: bool
    """The score is the minutes times the convergence test's factor."""
    checker_is_verdict: bool
    """A log that the installed checker rejects does not count. False where its rule files reject
    what was published; a rejection is only a remark there."""


def round_names() -> list[str]:
    """List the rounds that have rules here, oldest first.

    Returns:
        Names such as ``v1.0``.
    """
    names = (path.stem for path in FOLDER.glob("v*.yaml"))
    return sorted(names, key=lambda name: [int(number) for number in name[1:].split(".")])


def round_name(text: str) -> str:
    """Return the name of a round that a user wrote.

    Args:
        text: Such as ``v1.0``, ``1.0`` or ``1.0.0``.

    Returns:
        The name as in ``round_names``.

    Raises:
        ValueError: If there are no rules for that round; the message lists those that exist.
    """
    numbers = text.strip().lower().removeprefix("v").split(".")
    name = "v" + ".".join(numbers[:2] if numbers[2:] == ["0"] else numbers)
    if name not in round_names():
        raise ValueError(f"no round {text!r}; choose one of {', '.join(round_names())}")
    return name


@cache
def load_round(name: str = "v1.0") -> Round:
    """Read one round's rules.

    Args:
        name: Such as ``v1.0``, ``1.0`` or ``1.0.0``.

    Returns:
        The round.

    Raises:
        ValueError: If there are no rules for that round; the message lists those that exist.
    """
    facts = _facts(round_name(name))
    ruleset = facts["rcp_ruleset"]
    benchmarks = {
        stem: BenchmarkRules(
            name=stem,
            runs=runs_per_result(stem),
            rcp=ruleset is not None and rcp_file(ruleset, stem) is not None,
            **rules,
        )
        for stem, rules in facts["benchmarks"].items()
    }
    limits = {key: float(value) for key, value in facts["init_limit_minutes"].items()}
    return Round(
        name=facts["round"],
        released=facts["released"],
        checker_ruleset=str(facts["checker_ruleset"]),
        rcp_ruleset=ruleset,
        init_limit_minutes=limits,
        divisions=tuple(facts["divisions"]),
        log_status_words=tuple(facts["log_status_words"]),
        benchmarks=benchmarks,
        **{key: bool(facts[key]) for key in SWITCHES},
    )


@cache
def _facts(name: str) -> Mapping[str, Any]:
    """Read a round file over the one that it builds on; a benchmark set to null has left."""
    import yaml

    # The loader in C takes a tenth of the time; libyaml may be missing.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    own: dict[str, Any] = yaml.load((FOLDER / f"{name}.yaml").read_text(), Loader=loader)
    if "like" not in own:
        return own
    base = _facts(own.pop("like"))
    benchmarks = {**base["benchmarks"], **own.pop("benchmarks", {})}
    kept = {stem: rules for stem, rules in benchmarks.items() if rules is not None}
    return {**base, **own, "benchmarks": kept}
