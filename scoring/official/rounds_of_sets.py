"""Finds each result's round; where no directory names it, from the log itself."""

from __future__ import annotations

from collections.abc import Sequence

from scoring.official.checkers import compliance
from scoring.rules.find_round import by_date, candidates, round_of_place, round_of_recipe
from scoring.rules.rounds import load_round, round_name, round_names
from scoring.rules.rounds.names import NETWORKS, task_of
from scoring.runs.found_round import FoundRound
from scoring.runs.result_sets import ResultSet
from scoring.runs.run import Run


def find_rounds(sets: Sequence[ResultSet], wanted: str | None = None) -> None:
    """Set ``round`` of each result: the one asked for, else the one it was found to be of.

    In order: the name of a directory, the README of a round, this repository's recipe, and for
    other logs the rounds with the benchmark, the checker's rulesets that accept a log of it, and
    its date.

    Args:
        sets: Results; ``round`` is set in place.
        wanted: The user's ``--round``; None to find it.

    Raises:
        ValueError: If there are no rules for ``wanted``, or its benchmark of that name is another
            one than the result's.
    """
    asked = None if wanted is None else FoundRound(round_name(wanted), f"--round {wanted}")
    ambiguous = [r for r in sets if asked is None or len(_tasks(r.benchmark)) > 1]
    found = _found(ambiguous)
    for result in sets:
        result.published = not result.is_own and round_of_place(result.path) is not None
        result.round = asked or found[id(result)]
        if asked is not None and id(result) in found:
            _check_task(result, asked, found[id(result)])


def _found(sets: Sequence[ResultSet]) -> dict[int, FoundRound]:
    """Find each result's round by itself; id of the result -> round."""
    placed = {id(result): _round_by_place_or_recipe(result) for result in sets}
    accepted = _accepting([result for result in sets if placed[id(result)] is None])
    return {
        id(result): placed[id(result)] or _round_of_logs(result, accepted[id(result)])
        for result in sets
    }


def _round_by_place_or_recipe(result: ResultSet) -> FoundRound | None:
    place = round_of_place(result.path)
    if result.is_own and (place is None or place.name not in candidates(result.benchmark)):
        return round_of_recipe(result)
    return place


def _check_task(result: ResultSet, asked: FoundRound, found: FoundRound) -> None:
    """Refuse a round in which the benchmark's name means another benchmark."""
    if result.benchmark not in load_round(asked.name).benchmarks:
        return
    theirs, ours = (task_of(result.benchmark, item.name) for item in (asked, found))
    if theirs != ours:
        raise ValueError(
            f"{result.path}: {result.benchmark} is {NETWORKS.get(theirs, theirs)} in {asked.name} "
            f"but these logs are of {NETWORKS.get(ours, ours)} ({found.name}: {found.reason}); "
            f"use --round {found.name}, or leave it out"
        )


def _round_of_logs(result: ResultSet, accepted: Sequence[str]) -> FoundRound:
    """Find a result's round by its benchmark, the rounds that accept its log, and its date."""
    names = candidates(result.benchmark)
    if len(names) == 1:
        return FoundRound(names[0], f"the only round with {result.benchmark}")
    # A name that no round knows is judged by the round of its day, which then says so.
    name, reason, certain = by_date(names or round_names(), _time_ms(result))
    if accepted:
        same = [each for each in accepted if _same_task(result.benchmark, each, name)]
        # Within the days of a round a rejected log is one that breaks its rules, not of another
        # round; unless the only rounds that accept it mean another benchmark by the name.
        if not (certain and (same or name in accepted)):
            name, reason, _ = by_date(accepted, _time_ms(result))
            rulesets = ", ".join(load_round(each).checker_ruleset for each in accepted)
            reason += f"; accepted by the checker's rules {rulesets}"
    where = f"{result.benchmark} is in {names[0]} to {names[-1]}; " if names else ""
    return FoundRound(name, where + reason)


def _tasks(benchmark: str) -> set[str]:
    return {task_of(benchmark, name) for name in candidates(benchmark)}


def _same_task(benchmark: str, one: str, other: str) -> bool:
    return task_of(benchmark, one) == task_of(benchmark, other)


def _typical(result: ResultSet) -> Run | None:
    """Return a run that reached its target, else any with a clock."""
    good = [run for run in result.runs if run.log.starts and not run.log.problems]
    reached = (run for run in good if run.log.status == "success")
    return next(reached, good[0] if good else None)


def _time_ms(result: ResultSet) -> float | None:
    run = _typical(result)
    return run.log.starts[0].time_ms if run is not None and run.log.starts else None


def _accepting(sets: Sequence[ResultSet]) -> dict[int, list[str]]:
    """Ask the checker, once for all, which rounds accept a log where the date does not decide."""
    rounds: dict[int, list[str]] = {id(result): [] for result in sets}
    questions = [
        (result, run, name)
        for result in sets
        if (run := _typical(result)) is not None and _open_question(result)
        for name in candidates(result.benchmark)
    ]
    verdicts = compliance(
        [(run.log.path, load_round(name).checker_ruleset) for _, run, name in questions]
    )
    for (result, _, name), verdict in zip(questions, verdicts, strict=True):
        if verdict.valid:
            rounds[id(result)].append(name)
    return rounds


def _open_question(result: ResultSet) -> bool:
    names = candidates(result.benchmark)
    if len(names) < 2:
        return False
    certain = by_date(names, _time_ms(result))[2]
    return not (certain and len(_tasks(result.benchmark)) == 1)
