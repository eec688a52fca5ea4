"""Finds and reads training runs: their logs and, for our own run directories, their records.

Three layouts are read: our own run directories (``result.txt`` next to ``run.json``), published or
submitted trees (``results/SYSTEM/BENCHMARK/result_*.txt``), and plain log files or directories of
them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from scoring.runs.log_reader import read_log
from scoring.runs.logs import RunLog
from scoring.runs.plain_text import plain

OWN_FOLDER = re.compile(r"\d{8}-\d{6}-seed\d+.*")
# In a submission, results/SYSTEM/BENCHMARK holds these and nothing else is a result.
RESULTS, BENCHMARK_DEPTH = "result_*.txt", 3
ARCHIVES = frozenset({".gz", ".zip", ".bz2", ".xz", ".zst", ".tar", ".tgz", ".7z"})
LOG_SUFFIXES = frozenset({".txt", ".log", ".out"})
# Entries of run.json whose type the figures rely on; each may also be null.
RECORD_TYPES: dict[str, Any] = {
    **dict.fromkeys(("benchmark", "division", "status", "stop_reason"), str),
    **dict.fromkeys(("net_arguments", "quality", "seconds", "system", "target", "versions"), dict),
    "net": str | dict,  # up to version 0.2 the class alone, with net_arguments next to it
    **dict.fromkeys(("devices", "global_batch_size", "parameters"), int),
    **dict.fromkeys(("flops_per_sample", "samples_per_second", "seconds_to_target"), int | float),
}
# Entries of run.json that, with network and machine, make runs one result.
CONFIGURATION = ("dataset", "target", "global_batch_size", "devices", "strategy", "precision")
# Path of a class in our own modules up to its name: version 0.2 moved the files, not the classes.
MOVED_PATH = re.compile(r"(?<![\w.])modules\.(?:\w+\.)+(?=\w)")


@dataclass
class Run:
    """One training run: its log and, if it is one of ours, its record."""

    log: RunLog
    record: dict[str, Any] | None = None
    """The contents of ``run.json``; None for other people's logs."""
    record_problem: str | None = None
    copy_of: str | None = None
    """Name of the run that this one is a copy of, if any."""
    rejected: str | None = None
    """Why the official checker rejects the log; None if it accepts it or was not asked."""

    @property
    def folder(self) -> Path:
        return self.log.path.parent

    @property
    def name(self) -> str:
        """Short name: the run directory's for our runs, the file's for others."""
        return self.folder.name if self.is_own else self.log.path.name

    @property
    def path(self) -> Path:
        """The run directory of our runs, the log file of others."""
        return self.folder if self.is_own else self.log.path

    @property
    def is_own(self) -> bool:
        return self.record is not None or self.record_problem is not None

    def fact(self, key: str) -> Any:
        """Return an entry of ``run.json``; None if it is missing."""
        return (self.record or {}).get(key)

    @property
    def demo(self) -> bool:
        return bool(self.fact("demo"))

    @property
    def configuration(self) -> tuple[str, ...]:
        """Return what must be equal in runs that are averaged: network, machine, batch ..."""
        system = self.fact("system") or {}
        facts = (str(self.fact(f)) for f in CONFIGURATION)
        return (*facts, without_moved_paths(str(self.net)), str(system))

    @property
    def net_class(self) -> str | None:
        """The network's class path; None if not recorded."""
        net = self.fact("net")
        return net.get("class") if isinstance(net, dict) else net

    @property
    def net(self) -> str | None:
        """The network's class path with its arguments; None if not recorded."""
        path, arguments = self.net_class, self.fact("net_arguments")
        if isinstance(net := self.fact("net"), dict):
            arguments = net.get("arguments")
        if not path or not isinstance(arguments, dict) or not arguments:
            return str(path) if path else None
        return f"{path}({', '.join(f'{key}={value}' for key, value in arguments.items())})"

    def curve(self, metric: str | None = None) -> list[tuple[float, float]]:
        """Return quality over time, as the log has it.

        Args:
            metric: Its name in the log's evaluations; the only one there is by default.

        Returns:
            Minutes since run_start and value of every evaluation that has the metric, in order.
        """
        start, stops = self.log.start, self.log.stops
        points = []
        for evaluation in self.log.evaluations if start else ():
            # Mini Go evaluates after the clock has stopped: such a point belongs to its end.
            end = min(evaluation.time_ms, stops[0].time_ms) if stops else evaluation.time_ms
            name = next(iter(evaluation.quality), None) if metric is None else metric
            if name in evaluation.quality and start:
                points.append(((end - start.time_ms) / 60_000, evaluation.quality[name]))
        return points

    @property
    def division(self) -> str | None:
        return self.fact("division") or self.log.division

    @property
    def benchmark(self) -> str | None:
        return self.log.benchmark or self.fact("benchmark")


def find_runs(path: Path) -> Iterator[Run]:
    """Read every run below a path.

    Args:
        path: A directory or one log file.

    Yields:
        Runs in the order of their paths.
    """
    if not path.is_dir():
        is_own = path.name in ("result.txt", "run.json") and (path.parent / "run.json").is_file()
        yield _own_run(path.parent) if is_own else Run(read_log(path))
        return
    visited: set[str] = set()
    tree = _submission_above(Path(os.path.abspath(path)))
    # A directory of links to chosen runs is read like the runs; a link to a parent ends at once.
    for name, subfolders, names in os.walk(path, followlinks=True, onerror=_raise):
        folder = Path(os.path.abspath(name))
        real = os.path.realpath(folder)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(n for n in subfolders if not n.startswith("."))
        if tree is None or not folder.is_relative_to(tree):
            tree = folder if _is_submission(folder, subfolders) else None
        if tree is not None:
            inside = folder.relative_to(tree).parts
            yield from _results_in(Path(name), inside, subfolders, names)
            continue
        _leave_out(folder, subfolders, names)
        yield from _runs_in(Path(name), sorted(names))


def _leave_out(folder: Path, subfolders: list[str], names: Iterable[str]) -> None:
    """Do not look for runs next to the files of one."""
    if "checkpoints" in subfolders and "run.json" in names:
        subfolders.remove("checkpoints")
    if any(fnmatch(name, RESULTS) for name in names):
        if folder.parent.parent.name == "results":
            subfolders.clear()
        elif "power" in subfolders:
            subfolders.remove("power")


def _raise(error: OSError) -> None:
    raise error


def _is_submission(folder: Path, subfolders: Iterable[str]) -> bool:
    """Return whether a directory is a submitter's: ``results/SYSTEM/BENCHMARK/result_*.txt``."""
    is_one = {"results", "systems"} <= set(subfolders)
    return is_one and any(folder.glob(f"results/*/*/{RESULTS}"))


def _submission_above(path: Path) -> Path | None:
    """Return the submitter's directory that holds a directory of results, if it is in one."""
    above = [p for p in path.parents[:6] if (p / "systems").is_dir()]
    return next((p for p in above if _is_submission(p, ("results", "systems"))), None)


def _results_in(
    folder: Path, inside: Sequence[str], subfolders: list[str], names: Iterable[str]
) -> Iterator[Run]:
    """Read the results in one directory of a submission, and leave its code and power logs out."""
    if not inside:
        subfolders[:] = ["results"]
    elif len(inside) == BENCHMARK_DEPTH:
        # A directory of such a name is one that cannot be read.
        results = [n for n in (*names, *subfolders) if fnmatch(n, RESULTS) or _is_packed(n)]
        yield from (Run(read_log(folder / name)) for name in sorted(results, key=_number))
        subfolders.clear()


def _is_packed(name: str) -> bool:
    """Return whether a file is a compressed result, which ``read_log`` refuses with a reason."""
    return fnmatch(name, f"{RESULTS}.*") and Path(name).suffix in ARCHIVES


def _runs_in(folder: Path, names: list[str]) -> Iterator[Run]:
    if "run.json" in names or ("result.txt" in names and OWN_FOLDER.fullmatch(folder.name)):
        yield _own_run(folder)
        return
    results = [n for n in names if n.startswith("result") and n.endswith(".txt")]
    if results and folder.parent.parent.name == "results":
        results = [n for n in results if fnmatch(n, RESULTS)]
    if results:
        yield from (Run(read_log(folder / name)) for name in sorted(results, key=_number))
        return
    for name in names:
        if Path(name).suffix in LOG_SUFFIXES:
            log = read_log(folder / name)
            if log.events:
                yield Run(log)


def _number(name: str) -> tuple[int, str]:
    digits = "".join(c for c in name if c.isdigit())
    return (int(digits or 0), name)


def _own_run(folder: Path) -> Run:
    log = read_log(folder / "result.txt")
    try:
        record = plain(json.loads((folder / "run.json").read_text()))
        _check_record(record)
    except FileNotFoundError:
        return Run(log, record_problem="no run.json: it ended before training began")
    except (OSError, ValueError) as error:
        return Run(log, record_problem=f"run.json cannot be read: {plain(str(error))}")
    return Run(log, record)


def _check_record(record: Any) -> None:
    """Reject what our recipes do not write, such as another program's run.json."""
    if not isinstance(record, dict):
        raise ValueError("not an object")
    for key, kind in RECORD_TYPES.items():
        value = record.get(key)
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"{key} is {value!r:.40}")


def without_moved_paths(text: str) -> str:
    """Reduce class paths in our own modules to the class, so that old runs equal new ones.

    Args:
        text: A network or setting, e.g. ``modules.resnet.net.ResNet(width=16)``.

    Returns:
        The text for comparisons, e.g. ``ResNet(width=16)``.
    """
    return MOVED_PATH.sub("", text)


def configuration_words(run: Run) -> str:
    """Describe data, target, batch and devices of one of our runs in one line.

    Args:
        run: The run.

    Returns:
        Short text.
    """
    parts = []
    for name in CONFIGURATION:
        value = run.fact(name)
        if isinstance(value, dict):
            value = " and ".join(f"{key} {figure}" for key, figure in value.items())
        parts.append(f"{name.replace('_', ' ')} {value}")
    return ", ".join(parts)
