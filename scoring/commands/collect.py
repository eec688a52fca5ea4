"""``collect``: make N runs of one recipe and print the table as it fills."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from scoring.commands import collect_slurm
from scoring.commands.score import print_scores
from scoring.drawing.tables import Table, print_json
from scoring.official.accepted import find_judged_sets
from scoring.rules.judged_runs import CONVERGED, NOT_CONVERGED
from scoring.rules.scores import VALID, Score, score
from scoring.runs.collection import (
    ENDED,
    GIVEN_UP,
    REPEATS,
    RUNNING,
    WAITING,
    Collection,
    CollectionStopped,
    Slot,
    open_collection,
)
from scoring.runs.run import Run


def run(args: argparse.Namespace) -> int:
    """Collect runs and print the table as it fills.

    Args:
        args: The arguments of ``collect`` (see ``scoring.cli``).

    Returns:
        0 if all runs that were asked for converged or make a valid result, 1 if not, 130 if
        interrupted.
    """
    if args.slurm:
        return collect_slurm.run(args)
    if args.submit:
        raise ValueError("--submit belongs to --slurm: give both")
    printer = _Printer(quiet=args.json)
    collection = open_collection(args, printer)
    previous = signal.signal(signal.SIGTERM, _as_interrupt)
    stopped = None
    try:
        with printer:
            collection.run()
    except CollectionStopped as error:
        stopped = str(error)
    except KeyboardInterrupt:
        print("collect: interrupted; the same command resumes", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)
        collection.lock.release()
    return _finish(args, collection, stopped)


def _as_interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _finish(args: argparse.Namespace, collection: Collection, stopped: str | None) -> int:
    ended = any(slot.state == ENDED for slot in collection.slots)
    sets = find_judged_sets([collection.folder], args.round) if ended else []
    scores = [score(item) for item in sets]
    problems = _repeated_seeds([run for item in sets for run in item.runs])
    problems += [
        f"run {slot.number} was given up after {slot.failures} attempts; it {slot.failure()}"
        for slot in collection.slots
        if slot.state == GIVEN_UP
    ]
    if args.json:
        facts = {"folder": str(collection.folder), "runs": _rows(collection), "stopped": stopped}
        print_json({**facts, "problems": problems, "scores": [s.as_json() for s in scores]})
    elif scores:
        print_scores(scores)
    for line in [*problems, *([stopped] if stopped else [])]:
        print(f"collect: {line}", file=sys.stderr)
    if scores and not args.json:
        round_flag = "" if args.round is None else f" --round {args.round}"
        print(f"next: python -m scoring score {shlex.quote(str(collection.folder))}{round_flag}")
    valid = bool(scores) and all(s.verdict == VALID for s in scores)
    good = valid or _all_converged(collection, scores)
    return 0 if good and not problems and not stopped else 1


def _all_converged(collection: Collection, scores: Sequence[Score]) -> bool:
    ended = all(slot.state == ENDED for slot in collection.slots)
    counted = [run for item in scores for run in item.runs if run.counts]
    return ended and all(run.outcome == CONVERGED for run in counted)


def _repeated_seeds(runs: Sequence[Run]) -> list[str]:
    seeds = [run.fact("seed") for run in runs if run.fact("seed") is not None]
    repeated = sorted({str(seed) for seed in seeds if seeds.count(seed) > 1})
    return [f"seed {seed} was used by more than one run" for seed in repeated]


def _rows(collection: Collection) -> list[dict[str, Any]]:
    rows = []
    for slot in collection.slots:
        run = slot.ended_run()
        outcome, seconds = None, None
        if run is not None:
            outcome = CONVERGED if run.log.status == "success" else NOT_CONVERGED
            seconds = run.log.seconds if outcome == CONVERGED else None
        rows.append(
            {
                "number": slot.number,
                "state": slot.state,
                "outcome": outcome,
                "seed": run.fact("seed") if run else None,
                "seconds_to_target": seconds,
                "exit_code": slot.exit_code,
                "repeats": min(slot.failures, REPEATS),
                "folder": str(run.folder) if run else None,
            }
        )
    return rows


class _Printer:
    """Shows the table: redrawn in place on a terminal, else one line per ended attempt."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.states: list[tuple[str, int]] = []
        self.live: Any = None
        self.rows: list[dict[str, Any]] = []
        self.drawn_at = 0.0

    def __enter__(self) -> _Printer:
        if not self.quiet and sys.stdout.isatty():
            from rich.live import Live

            self.live = Live(auto_refresh=False)
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            self.live.stop()

    def __call__(self, collection: Collection) -> None:
        states = [(slot.state, slot.failures) for slot in collection.slots]
        if self.quiet or (states == self.states and not self._is_due()):
            return
        if states != self.states:
            self.rows = _rows(collection)
        rows = self.rows
        if self.live is not None:
            self.drawn_at = time.monotonic()
            self.live.update(_table(rows, collection).rich(), refresh=True)
        else:
            known = self.states or [(WAITING, 0)] * len(states)
            for slot, before, row in zip(collection.slots, known, rows, strict=True):
                if row["state"] == ENDED and before[0] != ENDED:
                    print(_line(row, collection), flush=True)
                elif slot.failures > before[1]:
                    print(_failure_line(slot, len(states)), flush=True)
        self.states = states

    def _is_due(self) -> bool:
        """Whether the seconds of the table are old; files are not read again for it."""
        return self.live is not None and time.monotonic() - self.drawn_at >= 1


def _line(row: dict[str, Any], collection: Collection) -> str:
    ended = sum(slot.state == ENDED for slot in collection.slots)
    left = _left(collection.seconds_left())
    took = f" in {row['seconds_to_target']:.1f} s" if row["seconds_to_target"] is not None else ""
    head = f"run {row['number']} of {len(collection.slots)}: {row['outcome']}{took}"
    return f"{head} (seed {row['seed']}); {ended} ended{left}"


def _failure_line(slot: Slot, of: int) -> str:
    then = "given up" if slot.failures > REPEATS else f"repeat {slot.failures} of {REPEATS}"
    return f"run {slot.number} of {of}: {slot.failure()}; {then}"


def _left(seconds: float | None) -> str:
    if not seconds:
        return ""
    return (
        f", about {seconds / 60:.0f} min left" if seconds > 90 else f", about {seconds:.0f} s left"
    )


def _table(rows: Sequence[dict[str, Any]], collection: Collection) -> Table:
    columns = ["run", "state", "outcome", "seconds to target", "seed", "repeats"]
    table = Table(
        f"Runs{_left(collection.seconds_left())}",
        columns,
        numeric=frozenset({"run", columns[3], "repeats"}),
    )
    for row, slot in zip(rows, collection.slots, strict=True):
        running = f" for {time.time() - slot.began:.0f} s" if row["state"] == RUNNING else ""
        state = row["state"] + running
        cells = [row["number"], state, row["outcome"], row["seconds_to_target"], row["seed"]]
        table.rows.append([*cells, row["repeats"] or None])
    return table
