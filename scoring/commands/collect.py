"""``collect``: N runs of one recipe, each in a fresh process with a seed of its own.

Every run has a folder ``<output_root>/<nn>/`` that serves as its process's output root, so the run
folder is known even while runs overlap. ``collect.json`` holds what was asked for and each latest
attempt; all else is read from the run folders, so a killed collection goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoring.drawing.tables import Table
from scoring.official.accepted import find_judged_sets
from scoring.rules.rounds import load_round
from scoring.rules.scores import CONVERGED, NOT_CONVERGED, score
from scoring.runs.result_sets import Run, find_runs

MANIFEST = "collect.json"
LOCK = ".collect.lock"
OUTPUT = "output.log"
POLL_SECONDS = 0.2
GRACE_SECONDS = 30
# A seed in the environment would make every run the same run.
SEED_VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
WAITING, RUNNING, ENDED, TO_REPEAT = "waiting", "running", "ended", "to repeat"
GIVEN_UP = "given up"
# A run that a full memory or a preemption killed is made again this often by one collection.
REPEATS = 2
# Arguments of fit that would make the runs one run -> what to do instead.
SET_BY_COLLECT = {
    "--output_root": "give --output_root before --",
    "--seed_everything": "every run has a seed of its own",
    "--ckpt_path": "every run begins anew",
}


class CollectionStopped(Exception):  # noqa: N818  (an orderly end, told to the user in one line)
    """No run has begun, and one failed in a way that every other would as well."""


@dataclass
class Slot:
    """One of the N runs: where it lives and how it stands."""

    number: int
    root: Path
    """Output root of this run's process."""
    process: subprocess.Popen[bytes] | None = None
    pid: int | None = None
    """Process of an earlier collection that was found still running."""
    exit_code: int | None = None
    began: float = 0.0
    """Wall-clock seconds since the epoch at which the latest attempt began."""
    took: float | None = None
    failures: int = 0
    """Attempts of this collection that left no ended run."""
    filled: Run | None = None
    """The ended run once it was found: it never changes, and looking takes time from others."""

    def runs(self) -> list[Run]:
        """Every attempt that left a run folder."""
        return list(find_runs(self.root)) if self.root.is_dir() else []

    def ended_run(self) -> Run | None:
        """The run that fills this slot: not interrupted, not resumed, ended."""
        for run in self.runs() if self.filled is None else ():
            if not run.is_own or run.fact("status") in ("running", None) or run.fact("resumed"):
                continue
            if run.fact("stop_reason") != "INTERRUPTED":
                self.filled = run
                break
        return self.filled

    def failure(self) -> str:
        """How the latest attempt failed, in words."""
        last = _last_line(self.root / OUTPUT)
        return f"left no finished run (exit status {self.exit_code}): {last}"

    @property
    def state(self) -> str:
        if self.process is not None or (self.pid is not None and _is_alive(self.pid, self.root)):
            return RUNNING
        if self.ended_run() is not None:
            return ENDED
        if self.failures > REPEATS:
            return GIVEN_UP
        return TO_REPEAT if self.root.is_dir() and self.began else WAITING


@dataclass
class Collection:
    """N slots, and the command that fills one."""

    folder: Path
    recipe: Path
    arguments: list[str]
    slots: list[Slot]
    parallel: int
    report: Callable[[Collection], None]
    lock: Any
    """Held as long as this collection is at work, so that no other fills the same slots."""

    def save(self) -> None:
        """Write the manifest, whole or not at all."""
        slots = [
            {
                "number": slot.number,
                "began": slot.began,
                "took": slot.took,
                "exit_code": slot.exit_code,
                "pid": slot.process.pid if slot.process else slot.pid,
            }
            for slot in self.slots
        ]
        facts = {"recipe": str(self.recipe), "arguments": self.arguments, "slots": slots}
        temporary = self.folder / f".{MANIFEST}.{os.getpid()}"
        temporary.write_text(json.dumps(facts, indent=2))
        temporary.replace(self.folder / MANIFEST)

    def run(self) -> None:
        """Fill every slot, ``parallel`` at a time; one that fails again and again stays empty."""
        try:
            while any(slot.state not in (ENDED, GIVEN_UP) for slot in self.slots):
                self._start_more()
                self._take_ended()
                self.report(self)
                time.sleep(POLL_SECONDS)
        finally:
            self._stop_all()
            self.save()

    def _start_more(self) -> None:
        running = sum(slot.state == RUNNING for slot in self.slots)
        for slot in self.slots:
            if running >= self.parallel:
                return
            if slot.state in (WAITING, TO_REPEAT):
                self._start(slot)
                running += 1

    def _start(self, slot: Slot) -> None:
        slot.root.mkdir(parents=True, exist_ok=True)
        environment = {k: v for k, v in os.environ.items() if k not in SEED_VARIABLES}
        command = [sys.executable, str(self.recipe), "fit", "--output_root", str(slot.root)]
        with (slot.root / OUTPUT).open("ab") as output:
            # A session of its own: Ctrl-C reaches the run through us, once, and not twice.
            slot.process = subprocess.Popen(
                [*command, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        slot.began, slot.took, slot.exit_code, slot.pid = time.time(), None, None, None
        self.save()

    def _take_ended(self) -> None:
        for slot in self.slots:
            if slot.process is None or slot.process.poll() is None:
                continue
            slot.exit_code, slot.process = slot.process.returncode, None
            slot.took = time.time() - slot.began
            self.save()
            if slot.ended_run() is None:
                slot.took = None
                slot.failures += 1
                # One that ended by itself met what every other would meet; a killed one is
                # repeated, as the next may find more memory.
                hopeless = slot.exit_code >= 0 or slot.failures > REPEATS
                if hopeless and not any(run.record for other in self.slots for run in other.runs()):
                    raise CollectionStopped(f"run {slot.number} {slot.failure()}")

    def _stop_all(self) -> None:
        """Let running processes end as interrupted; kill those that do not, or at a second Ctrl-C.

        The whole group is killed: a run of several ranks would leave all but the first behind.
        """
        running = [slot for slot in self.slots if slot.process is not None]
        for slot in running:
            assert slot.process is not None
            slot.process.send_signal(signal.SIGINT)
        patience = float(GRACE_SECONDS)
        for slot in running:
            assert slot.process is not None
            try:
                slot.exit_code = slot.process.wait(patience)
            except (subprocess.TimeoutExpired, KeyboardInterrupt) as reason:
                patience = 0.0 if isinstance(reason, KeyboardInterrupt) else patience
                os.killpg(slot.process.pid, signal.SIGKILL)
                slot.exit_code = slot.process.wait()
            slot.process = None

    def seconds_left(self) -> float | None:
        """Estimate from the runs that ended; None before the first."""
        took = [slot.took for slot in self.slots if slot.took is not None]
        if not took:
            return None
        mean = sum(took) / len(took)
        left = 0.0
        for slot in self.slots:
            state = slot.state
            if state == RUNNING:
                left += max(0.0, mean - (time.time() - slot.began))
            elif state not in (ENDED, GIVEN_UP):
                left += mean
        return left / self.parallel


def _is_alive(pid: int, root: Path) -> bool:
    """Whether a process is still the one that fills ``root`` (process numbers are used again)."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return str(root).encode() in command.split(b"\0")


def _last_line(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it printed nothing"


def _open(args: argparse.Namespace, report: Callable[[Collection], None]) -> Collection:
    """The collection in the output root: a new one, or the one that is already there."""
    _refuse_ours(args.fit_arguments)
    if not args.recipe.is_file():
        raise FileNotFoundError(f"{args.recipe} does not exist")
    if args.runs < 1 or args.parallel < 1:
        raise ValueError("--runs and --parallel must be at least 1")
    folder = args.output_root or Path("runs", f"collect-{args.recipe.stem}")
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder)
    known: dict[str, Any] = {}
    if (folder / MANIFEST).is_file():
        known = json.loads((folder / MANIFEST).read_text())
        _refuse_other(known, args, folder)
    slots = [Slot(number, folder / f"{number:02d}") for number in range(1, args.runs + 1)]
    for slot, facts in zip(slots, known.get("slots", []), strict=False):
        slot.began, slot.took = facts["began"], facts["took"]
        slot.exit_code, slot.pid = facts["exit_code"], facts["pid"]
    recipe, arguments = args.recipe.resolve(), list(args.fit_arguments)
    return Collection(folder, recipe, arguments, slots, args.parallel, report, lock)


def _lock(folder: Path) -> Any:
    """Hold the folder until this process ends or lets go of it."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"another collect is at work in {folder}; wait for its end, or stop it first"
        ) from None
    return lock


def _refuse_ours(arguments: Sequence[str]) -> None:
    for argument in arguments:
        name = argument.partition("=")[0]
        if name in SET_BY_COLLECT:
            raise ValueError(f"{name} is set by collect; {SET_BY_COLLECT[name]}")


def _refuse_other(known: dict[str, Any], args: argparse.Namespace, folder: Path) -> None:
    if not _has_begun(known, folder):
        return  # such as after a mistyped argument: there is nothing that could be mixed
    wanted = {"recipe": str(args.recipe.resolve()), "arguments": list(args.fit_arguments)}
    for key, value in wanted.items():
        if known.get(key) != value:
            raise ValueError(
                f"{folder} holds a collection with another {key} ({known.get(key)!r}); "
                "give a new --output_root"
            )


def _has_begun(known: dict[str, Any], folder: Path) -> bool:
    """Whether any run of an earlier collection trained, or may be about to."""
    alive = (
        slot["pid"] is not None and _is_alive(slot["pid"], folder / f"{slot['number']:02d}")
        for slot in known.get("slots", [])
    )
    return any(folder.glob("*/*/*/run.json")) or any(alive)


def run(args: argparse.Namespace) -> int:
    """Collect runs and print the table as it fills.

    Args:
        args: The arguments of ``collect`` (see ``scoring.cli``).

    Returns:
        0 if all runs are there and make a valid result, 1 if not, 130 if interrupted.
    """
    printer = _Printer(quiet=args.json)
    collection = _open(args, printer)
    previous = signal.signal(signal.SIGTERM, _as_interrupt)  # put back below, whatever happens
    stopped = None
    try:
        with printer:
            collection.run()
    except CollectionStopped as error:
        stopped = str(error)
    except KeyboardInterrupt:
        print("collect: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)
        collection.lock.release()
    return _finish(args, collection, stopped)


def _as_interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _finish(args: argparse.Namespace, collection: Collection, stopped: str | None) -> int:
    from scoring.cli import print_json
    from scoring.commands.score import print_scores

    rules = load_round(args.round)
    ended = any(slot.state == ENDED for slot in collection.slots)
    sets = find_judged_sets([collection.folder], rules) if ended else []
    scores = [score(found, rules) for found in sets]
    problems = _repeated_seeds([run for found in sets for run in found.runs])
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
        rules_of = "" if args.round == "v1.0" else f" --round {args.round}"
        print(f"next: python -m scoring score {shlex.quote(str(collection.folder))}{rules_of}")
    valid = bool(scores) and all(s.verdict == "valid" for s in scores)
    return 0 if valid and not problems and not stopped else 1


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
    """Shows the table: redrawn in place on a terminal, one line per ended attempt elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.states: list[tuple[str, int]] = []
        self.live: Any = None

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
        if self.quiet or states == self.states:
            return
        rows = _rows(collection)
        if self.live is not None:
            self.live.update(_table(rows, collection.seconds_left()).rich(), refresh=True)
        else:
            known = self.states or [(WAITING, 0)] * len(states)
            for slot, before, row in zip(collection.slots, known, rows, strict=True):
                if row["state"] == ENDED and before[0] != ENDED:
                    print(_line(row, collection), flush=True)
                elif slot.failures > before[1]:
                    print(_failure_line(slot, len(states)), flush=True)
        self.states = states


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


def _table(rows: Sequence[dict[str, Any]], seconds_left: float | None) -> Table:
    columns = ["run", "state", "outcome", "seconds to target", "seed", "repeats"]
    table = Table(
        f"Runs{_left(seconds_left)}", columns, numeric=frozenset({"run", columns[3], "repeats"})
    )
    for row in rows:
        cells = [row["number"], row["state"], row["outcome"], row["seconds_to_target"], row["seed"]]
        table.rows.append([*cells, row["repeats"] or None])
    return table
