"""Fills N slots with runs of one recipe, each in a fresh process with its own seed.

Every run has a directory ``<output_root>/<nn>/`` that is its process's output root, so the run
directory is known even while runs overlap. ``collect.json`` holds what was asked for and each
latest attempt; everything else is read from the run directories, so a killed collection resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoring.runs.run import Run, find_runs

MANIFEST = "collect.json"
LOCK = ".collect.lock"
OUTPUT = "output.log"
POLL_SECONDS = 0.2
GRACE_SECONDS = 30
# A seed in the environment would make every run the same run.
SEED_VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
WAITING, RUNNING, ENDED, TO_REPEAT = "waiting", "running", "ended", "to repeat"
GIVEN_UP = "given up"
# A run that was killed, by lack of memory or a preemption, is repeated this often per collection.
REPEATS = 2
# Arguments of fit that would make the runs one run -> what to do instead.
SET_BY_COLLECT = {
    "--output_root": "give --output_root before --",
    "--seed_everything": "every run has its own seed",
    "--ckpt_path": "every run starts from the beginning",
}


class CollectionStopped(Exception):  # noqa: N818  (control flow, printed in one line)
    """Raised when no run has begun and one failed in a way that every other would as well."""


@dataclass
class Slot:
    """One of the N runs: its directory and its state."""

    number: int
    root: Path
    """Output root of this run's process."""
    process: subprocess.Popen[bytes] | None = None
    pid: int | None = None
    """Process of an earlier collection that was still running."""
    exit_code: int | None = None
    began: float = 0.0
    """Wall-clock seconds since the epoch at which the latest attempt began."""
    took: float | None = None
    failures: int = 0
    """Attempts of this collection that left no ended run."""
    filled: Run | None = None
    """The ended run, cached: it never changes, and reading it takes time from the others."""

    def runs(self) -> list[Run]:
        return list(find_runs(self.root)) if self.root.is_dir() else []

    def ended_run(self) -> Run | None:
        """Return the run that fills this slot: ended, not interrupted, not resumed."""
        for run in self.runs() if self.filled is None else ():
            if not run.is_own or run.fact("status") in ("running", None) or run.fact("resumed"):
                continue
            if run.fact("stop_reason") != "INTERRUPTED":
                self.filled = run
                break
        return self.filled

    def failure(self) -> str:
        """Describe how the latest attempt failed."""
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
    """Held while this collection runs, so that no other fills the same slots."""
    job: str | None = None
    """Number of the array of batch jobs that was submitted last."""

    def save(self) -> None:
        """Write the manifest atomically."""
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
        facts: dict[str, Any] = {"recipe": str(self.recipe), "arguments": self.arguments}
        facts |= {"slots": slots, "job": self.job}
        temporary = self.folder / f".{MANIFEST}.{os.getpid()}"
        temporary.write_text(json.dumps(facts, indent=2))
        temporary.replace(self.folder / MANIFEST)

    def run(self) -> None:
        """Fill every slot, ``parallel`` at a time; one that fails repeatedly stays empty.

        Raises:
            CollectionStopped: If a first run failed in a way that every other would as well.
        """
        try:
            while any(slot.state not in (ENDED, GIVEN_UP) for slot in self.slots):
                self._start_more()
                self._collect_ended()
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
            # In a session of its own, so that Ctrl-C reaches the run once, through us.
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

    def _collect_ended(self) -> None:
        for slot in self.slots:
            if slot.process is None or slot.process.poll() is None:
                continue
            slot.exit_code, slot.process = slot.process.returncode, None
            slot.took = time.time() - slot.began
            self.save()
            if slot.ended_run() is None:
                slot.took = None
                slot.failures += 1
                # A run that ended by itself met what every other would meet; a killed one is
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
        """Estimate the time left from the runs that ended; None before the first."""
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


def open_collection(args: argparse.Namespace, report: Callable[[Collection], None]) -> Collection:
    """Open the collection in the output root: the one that is already there, or a new one.

    Args:
        args: The arguments of ``collect`` (see ``scoring.cli``).
        report: Called with the collection after every poll.

    Returns:
        The collection, its directory locked until the caller releases ``lock``.

    Raises:
        FileNotFoundError: If the recipe does not exist.
        ValueError: If an argument is out of range or set by ``collect`` itself, or the directory
            holds another collection or is in use.
    """
    _check_arguments(args.fit_arguments)
    if not args.recipe.is_file():
        raise FileNotFoundError(f"{args.recipe} does not exist")
    parallel = 1 if args.parallel is None else args.parallel
    if args.runs < 1 or parallel < 1:
        raise ValueError("--runs and --parallel must be at least 1")
    folder = (args.output_root or Path("runs", f"collect-{args.recipe.stem}")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder)
    recipe, arguments = args.recipe.resolve(), list(args.fit_arguments)
    manifest: dict[str, Any] = {}
    if (folder / MANIFEST).is_file():
        manifest = json.loads((folder / MANIFEST).read_text())
        _check_same(manifest, {"recipe": str(recipe), "arguments": arguments}, folder)
    slots = [Slot(number, folder / f"{number:02d}") for number in range(1, args.runs + 1)]
    for slot, facts in zip(slots, manifest.get("slots", []), strict=False):
        slot.began, slot.took = facts["began"], facts["took"]
        slot.exit_code, slot.pid = facts["exit_code"], facts["pid"]
    job = manifest.get("job")
    if job and _is_queued(job):
        lock.release()
        raise ValueError(f"job {job} still fills {folder}; wait for it, or scancel {job}")
    return Collection(folder, recipe, arguments, slots, parallel, report, lock, job)


def _check_arguments(arguments: Sequence[str]) -> None:
    for argument in arguments:
        name = argument.partition("=")[0]
        if name in SET_BY_COLLECT:
            raise ValueError(f"{name} is set by collect; {SET_BY_COLLECT[name]}")


def _lock(folder: Path) -> Any:
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"another collect is running in {folder}; wait for it to end, or stop it first"
        ) from None
    return lock


def _check_same(manifest: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    if not _has_begun(manifest, folder):
        return  # such as after a mistyped argument: there is nothing that could be mixed
    for key, value in wanted.items():
        if manifest.get(key) != value:
            raise ValueError(
                f"{folder} holds a collection with another {key} ({manifest.get(key)!r}); "
                "give a new --output_root"
            )


def _has_begun(manifest: dict[str, Any], folder: Path) -> bool:
    """Return whether any run of an earlier collection trained, or may be about to."""
    alive = (
        slot["pid"] is not None and _is_alive(slot["pid"], folder / f"{slot['number']:02d}")
        for slot in manifest.get("slots", [])
    )
    return any(folder.glob("*/*/*/run.json")) or any(alive)


def _is_alive(pid: int, root: Path) -> bool:
    """Return whether a process still fills ``root`` (process ids are reused)."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return str(root).encode() in command.split(b"\0")


def _is_queued(job: str) -> bool:
    """Whether Slurm still has a job that waits or runs."""
    try:
        done = subprocess.run(["squeue", "-h", "-j", job], capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and bool(done.stdout.strip())


def _last_line(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it printed nothing"
