"""Finds the runs in folders and sorts them into result sets: what one score is made of.

Three shapes are read: our own run folders (``result.txt`` beside ``run.json``), published or
submitted trees (``results/SYSTEM/BENCHMARK/result_*.txt``), and plain log files or folders of them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scoring.rules.rounds import Round
from scoring.runs.logs import RunLog, read_log

OWN_FOLDER = re.compile(r"\d{8}-\d{6}-seed\d+.*")
LOG_SUFFIXES = frozenset({".txt", ".log", ".out"})
# Entries of run.json whose kind the figures rely on; each may also be null.
RECORD_KINDS: dict[str, Any] = {
    **dict.fromkeys(("benchmark", "division", "net", "status", "stop_reason"), str),
    **dict.fromkeys(("net_arguments", "quality", "seconds", "system", "target", "versions"), dict),
    **dict.fromkeys(("devices", "global_batch_size", "parameters"), int),
    **dict.fromkeys(("flops_per_sample", "samples_per_second", "seconds_to_target"), int | float),
}
# Entries of run.json that, with network and machine, make runs one result.
CONFIGURATION = ("dataset", "target", "global_batch_size", "devices", "strategy", "precision")


@dataclass
class Run:
    """One training run: its log and, if it is one of ours, its record."""

    log: RunLog
    record: dict[str, Any] | None = None
    """The contents of ``run.json``; None for other people's logs."""
    record_problem: str | None = None
    copy_of: str | None = None
    """Name of the run that this one is a copy of; None if it is none."""
    rejected: str | None = None
    """Why the official checker does not accept the log; None if it does or was not asked."""

    @property
    def folder(self) -> Path:
        return self.log.path.parent

    @property
    def name(self) -> str:
        """Short name: the run folder's for our runs, the file's for others."""
        return self.folder.name if self.is_own else self.log.path.name

    @property
    def is_own(self) -> bool:
        return self.record is not None or self.record_problem is not None

    def fact(self, key: str) -> Any:
        """An entry of ``run.json``; None if it is not there."""
        return (self.record or {}).get(key)

    @property
    def demo(self) -> bool:
        return bool(self.fact("demo"))

    @property
    def configuration(self) -> tuple[str, ...]:
        """What has to be equal in runs that are averaged: network, machine, batch, target ..."""
        system = self.fact("system") or {}
        return (*(str(self.fact(f)) for f in CONFIGURATION), str(self.net), str(system))

    @property
    def net(self) -> str | None:
        """The network's class path with the arguments given to it; None if not recorded."""
        path, arguments = self.fact("net"), self.fact("net_arguments")
        if not path or not isinstance(arguments, dict) or not arguments:
            return str(path) if path else None
        return f"{path}({', '.join(f'{key}={value}' for key, value in arguments.items())})"

    def curve(self, metric: str | None = None) -> list[tuple[float, float]]:
        """Quality over time, as the log tells it.

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


@dataclass
class ResultSet:
    """The runs that belong to one score."""

    benchmark: str
    division: str | None
    system: str
    submitter: str
    path: Path
    runs: list[Run] = field(default_factory=list)
    configuration: str = ""
    """What sets it apart from others of the same name; empty where there are none."""
    description: dict[str, Any] | None = None
    """The submission's ``systems/<system>.json``, if there is one."""

    @property
    def demo(self) -> bool:
        return any(run.demo for run in self.runs)

    @property
    def is_own(self) -> bool:
        return any(run.is_own for run in self.runs)

    def common(self, key: str) -> Any:
        """An entry of ``run.json`` that is equal in all runs that have it, else None."""
        values = [run.fact(key) for run in self.runs if run.fact(key) is not None]
        return values[0] if values and all(value == values[0] for value in values) else None

    @property
    def accelerators(self) -> int | None:
        """Accelerators over all nodes, 0 for CPU only; None if unknown."""
        if self.description:
            return _product(self.description, "number_of_nodes", "accelerators_per_node")
        devices = self.common("devices")
        if isinstance(devices, int):
            return devices if (self.common("system") or {}).get("accelerator") else 0
        return None


def _product(facts: dict[str, Any], *keys: str) -> int | None:
    total = 1
    for key in keys:
        try:
            total *= int(str(facts.get(key)).split()[0])
        except (ValueError, IndexError):
            return None
    return total


def find_result_sets(paths: Iterable[Path], rules: Round) -> list[ResultSet]:
    """Read everything under some paths and sort it into result sets.

    Args:
        paths: Folders, run folders or log files.
        rules: The round, for its benchmark names.

    Returns:
        Sets in order of benchmark and system; within a set the runs in the order they began.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If there is no run below any of them.
    """
    paths = [Path(path) for path in paths]
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
    paths = [_nameable(path) for path in paths]
    sets: dict[tuple[Any, ...], ResultSet] = {}
    seen: set[Path] = set()
    for path in paths:
        for run in find_runs(path):
            # Paths may overlap, and links lead to one run in two ways: it is still one run.
            place = run.folder.resolve() / run.log.path.name
            if place not in seen:
                key, make = _place(run, rules)
                sets.setdefault(key, make).runs.append(run)
            seen.add(place)
    if not sets:
        where = ", ".join(str(path) for path in paths)
        raise ValueError(
            f"no run found in {where}: looked for run.json with result.txt, for "
            "results/SYSTEM/BENCHMARK/result_*.txt, and for files with ':::MLLOG' lines"
        )
    for found in sets.values():
        _settle(found, rules)
    found_sets = sorted(
        sets.values(), key=lambda s: (s.benchmark, s.submitter, s.system, str(s.path))
    )
    _number_namesakes(found_sets)
    return found_sets


def _nameable(path: Path) -> Path:
    """A path whose own and whose parents' names can be told; symbolic links keep theirs."""
    return path.resolve() if ".." in path.parts else path.absolute()


def find_runs(path: Path) -> Iterator[Run]:
    """Read every run below a path.

    Args:
        path: A folder or one log file.

    Yields:
        Runs in the order of their paths.
    """
    if path.is_file():
        is_own = path.name in ("result.txt", "run.json") and (path.parent / "run.json").is_file()
        yield _own_run(path.parent) if is_own else Run(read_log(path))
        return
    visited: set[str] = set()
    # A folder of links to chosen runs is read like the runs; a link to a parent ends at once.
    for folder, subfolders, names in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(n for n in subfolders if not n.startswith("."))
        if "checkpoints" in subfolders and "run.json" in names:
            subfolders.remove("checkpoints")
        yield from _runs_in(Path(folder), sorted(names))


def _runs_in(folder: Path, names: list[str]) -> Iterator[Run]:
    if "run.json" in names or ("result.txt" in names and OWN_FOLDER.fullmatch(folder.name)):
        yield _own_run(folder)
        return
    results = [n for n in names if n.startswith("result") and n.endswith(".txt")]
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
        record = json.loads((folder / "run.json").read_text())
        _judge_record(record)
    except FileNotFoundError:
        return Run(log, record_problem="no run.json: it ended before training began")
    except (OSError, ValueError) as error:
        return Run(log, record_problem=f"run.json cannot be read: {error}")
    return Run(log, record)


def _judge_record(record: Any) -> None:
    """Refuse what our recipes do not write, such as another program's run.json."""
    if not isinstance(record, dict):
        raise ValueError("not an object")
    for key, kind in RECORD_KINDS.items():
        value = record.get(key)
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"{key} is {value!r:.40}")


def _place(run: Run, rules: Round) -> tuple[tuple[Any, ...], ResultSet]:
    """The set that a run belongs to: its key, and the set to make if it is the first."""
    folder = run.folder
    if run.is_own:
        benchmark = run.benchmark or folder.parent.name
        # Runs of one configuration make one score, wherever their folders lie.
        key: tuple[Any, ...] = (benchmark, run.division, run.demo, run.configuration)
        return key, ResultSet(benchmark, run.division, _own_name(run), "", folder.parent)
    if folder.name in rules.benchmarks:
        in_tree = folder.parent.parent.name == "results"
        said = str(run.log.facts.get("submission_org", ""))
        submitter = folder.parents[2].name if in_tree else said
        return (folder,), ResultSet(folder.name, None, folder.parent.name, submitter, folder)
    facts_of = run.log.facts
    benchmark = run.benchmark or "unknown"
    system_name = str(facts_of.get("submission_platform", folder.name))
    submitter = str(facts_of.get("submission_org", ""))
    key = (folder, run.benchmark, run.division, system_name)
    return key, ResultSet(benchmark, run.division, system_name, submitter, folder)


def _own_name(run: Run) -> str:
    """The network and what it ran on; runs of ours have no system name of their own."""
    system = run.fact("system") or {}
    hardware = str(system.get("accelerator") or system.get("cpu") or "this machine")
    if run.net is None:
        return hardware
    return f"{run.net.partition('(')[0].rpartition('.')[2]} on {hardware}"


def _number_namesakes(sets: list[ResultSet]) -> None:
    """Tell apart results of one benchmark that would bear one name, and say how they differ."""
    names = [(found.benchmark, found.system) for found in sets if found.is_own]
    counts: dict[tuple[str, str], int] = {}
    for found in sets:
        name = (found.benchmark, found.system)
        if found.is_own and names.count(name) > 1:
            counts[name] = counts.get(name, 0) + 1
            found.system += f" #{counts[name]}"
            first = found.runs[0]
            found.configuration = f"net {first.net}, {configuration_words(first)}"


def _settle(found: ResultSet, rules: Round) -> None:
    """Fill in what only the whole set can tell."""
    found.runs.sort(key=lambda run: run.log.starts[0].time_ms if run.log.starts else float("inf"))
    if found.is_own:
        _mark_copies(found.runs)
        return
    found.description = _description(found) if found.benchmark in rules.benchmarks else None
    # The description decides: some entries were moved to open with logs that still say closed.
    said = [run.log.division for run in found.runs if run.log.division]
    declared = str((found.description or {}).get("division", "")).strip().lower()
    declared = {"close": "closed"}.get(declared, declared)
    found.division = declared or (said[0] if said else None)


def configuration_words(run: Run) -> str:
    """Data, target, batch and devices of a run of ours in one line.

    Args:
        run: The run.

    Returns:
        Short text.
    """
    told = []
    for name in CONFIGURATION:
        value = run.fact(name)
        if isinstance(value, dict):
            value = " and ".join(f"{key} {figure}" for key, figure in value.items())
        told.append(f"{name.replace('_', ' ')} {value}")
    return ", ".join(told)


def _mark_copies(runs: Iterable[Run]) -> None:
    """Say which runs of ours lie there twice: a copied folder is no second run."""
    seen: dict[tuple[Any, ...], str] = {}
    for run in runs:
        if run.fact("seed") is None or not run.log.starts:
            continue
        times = tuple(mark.time_ms for mark in (*run.log.starts, *run.log.stops))
        began = run.log.init_start_ms
        mark = (run.fact("seed"), run.fact("started_at"), began, times)
        run.copy_of = seen.get(mark)
        seen.setdefault(mark, run.name)


def _description(found: ResultSet) -> dict[str, Any] | None:
    """The ``systems/<system>.json`` of a submission tree, if it is there and readable."""
    if len(found.path.parents) < 3:
        return None
    sheet = found.path.parents[2] / "systems" / f"{found.system}.json"
    try:
        facts = json.loads(sheet.read_text())
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None
