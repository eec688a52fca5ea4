"""Sorts runs into result sets: the runs that one score is made of."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scoring.runs.found_round import FoundRound
from scoring.runs.logs import is_number
from scoring.runs.plain_text import plain, short
from scoring.runs.progress import Progress
from scoring.runs.run import ARCHIVES, Run, configuration_words, find_runs

DIVISIONS = ("closed", "open")
COUNTS = ("number_of_nodes", "accelerators_per_node")


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
    """Words that set it apart from others of the same name; empty where there are none."""
    description: dict[str, Any] | None = None
    """The submission's ``systems/<system>.json``, if there is one."""
    scaling: float | None = None
    """Factor of a published ``scaling.json`` next to the logs; None without one."""
    scaling_problem: str | None = None
    """Why the ``scaling.json`` next to the logs holds no factor."""
    published: bool = False
    """It lies in a round's own tree, so that the review has passed it; set with ``round``."""
    rejected: int = 0
    """Runs of a published result that count although the official checker rejects them."""
    round: FoundRound | None = None
    """The round that it is judged by, and why; set by ``scoring.official.rounds_of_sets``."""
    problems: list[str] = field(default_factory=list)
    """Why it cannot count, whatever its runs did: a broken description, an unknown division."""
    remarks: list[str] = field(default_factory=list)

    @property
    def demo(self) -> bool:
        return any(run.demo for run in self.runs)

    @property
    def is_own(self) -> bool:
        return any(run.is_own for run in self.runs)

    @property
    def unreadable(self) -> list[str]:
        """One line per log that could not be read, so that its run is not known."""
        logs = [run.log for run in self.runs if not run.is_own]
        return [f"{log.path} cannot be read: {log.unreadable}" for log in logs if log.unreadable]

    def common(self, key: str) -> Any:
        """Return an entry of ``run.json`` that is equal in all runs that have it, else None."""
        values = [run.fact(key) for run in self.runs if run.fact(key) is not None]
        return values[0] if values and all(value == values[0] for value in values) else None

    @property
    def accelerators(self) -> int | None:
        """Accelerators over all nodes, 0 for CPU only; None if unknown."""
        if self.description:
            return _product(self.description, *COUNTS)
        devices = self.common("devices")
        if isinstance(devices, int):
            return devices if (self.common("system") or {}).get("accelerator") else 0
        return None


def _product(facts: dict[str, Any], *keys: str) -> int | None:
    total = 1
    for key in keys:
        try:
            count = float(str(facts.get(key)).split()[0])
            total *= int(count)
        except (ValueError, IndexError, OverflowError):
            return None
        if count != int(count) or count < 0:
            return None
    return total


def find_result_sets(paths: Iterable[Path], benchmarks: Container[str]) -> list[ResultSet]:
    """Read everything under some paths and sort it into result sets.

    Args:
        paths: Directories, run directories or log files.
        benchmarks: The round's benchmark names, which mark the directories of a submission tree.

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
    paths = [_absolute_path(path) for path in paths]
    by_key: dict[tuple[Any, ...], ResultSet] = {}
    for run in _runs_once(paths):
        key, new = _result_set_key(run, benchmarks)
        by_key.setdefault(key, new).runs.append(run)
    if not by_key:
        where = ", ".join(str(path) for path in paths)
        raise ValueError(
            f"no run found in {where}: looked for run.json with result.txt, for "
            "results/SYSTEM/BENCHMARK/result_*.txt, and for files with ':::MLLOG' lines"
            + _archives_in(paths)
        )
    for result in by_key.values():
        _finalize(result, benchmarks)
    sets = sorted(by_key.values(), key=lambda s: (s.benchmark, s.submitter, s.system, str(s.path)))
    _number_namesakes(sets)
    return sets


def _runs_once(paths: Iterable[Path]) -> Iterator[Run]:
    """Read every run; paths may overlap, and links lead to one run in two ways."""
    seen: set[Path] = set()
    with Progress("reading logs") as progress:
        for run in (run for path in paths for run in find_runs(path)):
            file = run.folder.resolve() / run.log.path.name
            if file not in seen:
                seen.add(file)
                yield run
            progress.show(len(seen))


def _archives_in(paths: Iterable[Path]) -> str:
    """Say that there are archives, which are not looked into."""
    files = (file for path in paths if path.is_dir() for file in path.rglob("*"))
    found = next((file for file in files if file.suffix in ARCHIVES), None)
    return "" if found is None else f"; archives such as {found.name} are not read: unpack them"


def _absolute_path(path: Path) -> Path:
    """Make a path absolute, so that its parents' names are known; symbolic links keep theirs."""
    return path.resolve() if ".." in path.parts else path.absolute()


def _result_set_key(run: Run, benchmarks: Container[str]) -> tuple[tuple[Any, ...], ResultSet]:
    """Return the key of the set that a run belongs to, and a new set for its first run."""
    folder = run.folder
    if run.is_own:
        benchmark = run.benchmark or folder.parent.name
        # Runs of one configuration make one score, in whatever directories they are.
        key: tuple[Any, ...] = (benchmark, run.division, run.demo, run.configuration)
        return key, ResultSet(benchmark, run.division, _own_name(run), "", folder.parent)
    facts = run.log.facts
    logged_org = _words(facts.get("submission_org", ""))
    if folder.name in benchmarks:
        in_tree = folder.parent.parent.name == "results"
        submitter = folder.parents[2].name if in_tree else logged_org
        return (folder,), ResultSet(folder.name, None, folder.parent.name, submitter, folder)
    system = _words(facts.get("submission_platform", folder.name))
    key = (folder, run.benchmark, run.division, system)
    return key, ResultSet(run.benchmark or "unknown", run.division, system, logged_org, folder)


def _words(value: Any) -> str:
    return value if isinstance(value, str) else short(value)


def _own_name(run: Run) -> str:
    """Name the network and what it ran on; our runs have no system name of their own."""
    system = run.fact("system") or {}
    hardware = str(system.get("accelerator") or system.get("cpu") or "this machine")
    if run.net is None:
        return hardware
    return f"{run.net.partition('(')[0].rpartition('.')[2]} on {hardware}"


def _number_namesakes(sets: list[ResultSet]) -> None:
    """Number results of one benchmark that would have the same name, and say how they differ."""
    names = [(item.benchmark, item.system) for item in sets if item.is_own]
    counts: dict[tuple[str, str], int] = {}
    for item in sets:
        name = (item.benchmark, item.system)
        if item.is_own and names.count(name) > 1:
            counts[name] = counts.get(name, 0) + 1
            item.system += f" #{counts[name]}"
            first = item.runs[0]
            item.configuration = f"net {first.net}, {configuration_words(first)}"


def _finalize(result: ResultSet, benchmarks: Container[str]) -> None:
    """Fill in what only the whole set shows: order, copies, description and division."""
    result.runs.sort(key=lambda run: run.log.starts[0].time_ms if run.log.starts else float("inf"))
    _mark_copies(result.runs)
    if not result.is_own:
        _read_scaling(result)
        in_tree = result.benchmark in benchmarks and len(result.path.parents) >= 3
        if in_tree:
            _describe(result, result.path.parents[2] / "systems" / f"{result.system}.json")
        # The description decides: some entries were moved to open with logs that say closed.
        logged = [run.log.division for run in result.runs if run.log.division]
        declared = str((result.description or {}).get("division", "")).strip().lower()
        declared = {"close": "closed"}.get(declared, declared)
        result.division = declared or (logged[0] if logged else None)
    if result.division not in (None, *DIVISIONS):
        allowed = " or ".join(DIVISIONS)
        result.problems.append(f"unknown division {result.division!r}; allowed: {allowed}")


def _mark_copies(runs: Iterable[Run]) -> None:
    """Mark the runs that are copies: a copied directory or log is not a second run."""
    seen: dict[tuple[Any, ...], str] = {}
    for run in runs:
        if not run.log.starts or (run.is_own and run.fact("seed") is None):
            continue
        identity = _identity(run)
        run.copy_of = seen.get(identity)
        seen.setdefault(identity, run.name)


def _read_scaling(result: ResultSet) -> None:
    """Read the review committee's factor, if there is one."""
    file = result.path / "scaling.json"
    try:
        factor = json.loads(file.read_text(encoding="utf-8-sig"))["scaling_factor"]
        if not is_number(factor) or not 0 < factor < float("inf"):
            raise ValueError(f"scaling_factor is {short(factor)}, not a number above 0")
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        words = str(error) if isinstance(error, OSError | ValueError) else "no scaling_factor"
        result.scaling_problem = f"{file} holds no factor for the score: {plain(words)}"
    else:
        result.scaling = float(factor)


def _identity(run: Run) -> tuple[Any, ...]:
    """Return what no two runs share."""
    log = run.log
    times = tuple(mark.time_ms for mark in (*log.starts, *log.stops))
    if run.is_own:
        return (run.fact("seed"), run.fact("started_at"), log.init_start_ms, times)
    seeds = tuple(str(value) for _, _, value in log.seeds)
    values = tuple((e.time_ms, tuple(e.quality.items())) for e in log.evaluations)
    return (seeds, log.init_start_ms, times, values)


def _describe(result: ResultSet, sheet: Path) -> None:
    """Read a submission's ``systems/<system>.json``; say where it is broken or missing."""
    if not sheet.parent.is_dir():
        return
    try:
        facts = json.loads(sheet.read_text(encoding="utf-8-sig"))
        if not isinstance(facts, dict):
            raise ValueError("not an object")
    except FileNotFoundError:
        result.remarks.append(f"there is no systems/{sheet.name}: division and size are unknown")
    except OSError as error:
        result.problems.append(f"{sheet} cannot be read: {error.strerror}")
    except (ValueError, RecursionError) as error:
        result.problems.append(f"{sheet} is not a system description: {error}")
    else:
        result.description = plain(facts)
        if result.accelerators is None:
            counts = {key: result.description.get(key) for key in COUNTS}
            words = ", ".join(f"{key} {value!r:.40}" for key, value in counts.items())
            result.remarks.append(f"systems/{sheet.name} does not count accelerators: {words}")
