"""Energy of one run: our record's counters, or the power logs next to a published one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from scoring.runs.log_files import LONGEST_LINE, TOKEN
from scoring.runs.run import Run

JOULES_PER_WH = 3600.0
OWN_PARTS = {"gpu": "GPUs", "cpu": "processors"}


@dataclass(frozen=True)
class Energy:
    """Energy that one run used from ``run_start`` to ``run_stop``."""

    watt_hours: float
    covers: str
    """Such as ``GPUs and processors`` or ``nodes and switches``."""


class _Event(NamedTuple):
    time_ms: float
    key: str
    value: Any


def run_energy(run: Run) -> Energy | str:
    """Return the energy of one run, or why it is not known.

    Args:
        run: A run of ours with ``energy_wh`` in its record, or one with a directory
            ``power/<name of its log>/`` next to the log.

    Returns:
        The energy, or one line of text.

    Source:
        mlperf-logging 4.1.68, result_summarizer: a node's mean power over its measurement, a
        switch's estimate, each times the run's time and its conversion efficiency. That a switch
        was measured instead (Dell, v4.1) it takes for 0 W; here its readings count.
    """
    if run.is_own:
        return _recorded(run)
    folder = run.folder / "power" / run.log.path.name.partition(".")[0]
    seconds = run.log.seconds
    if not folder.is_dir():
        return "no power logs"
    if seconds is None:
        return "the run has no time"
    try:
        return _measured(folder, seconds)
    except ValueError as error:
        return str(error)


def _recorded(run: Run) -> Energy | str:
    used = run.fact("energy_wh") or {}
    known = {name: used[name] for name in OWN_PARTS if _is_number(used.get(name))}
    if not known:
        return str(run.fact("energy_note") or "run.json has no energy_wh")
    return Energy(math.fsum(known.values()), " and ".join(OWN_PARTS[name] for name in known))


def _measured(folder: Path, seconds: float) -> Energy:
    nodes, switches = (sorted(folder.glob(f"{kind}_*.txt")) for kind in ("node", "sw"))
    if not nodes:
        raise ValueError(f"{folder} has no node_*.txt")
    watts = _sum(_node_watts, nodes) + _sum(_switch_watts, switches)
    covers = "nodes and switches" if switches else "nodes"
    return Energy(watts * seconds / JOULES_PER_WH, covers)


def _sum(watts_of: Callable[[list[_Event]], float], paths: list[Path]) -> float:
    total = 0.0
    for path in paths:
        try:
            events = sorted(_events(path), key=lambda event: event.time_ms)
            total += watts_of(events)
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"{path} is not a power log: {str(error)[:120]}") from None
    return total


def _node_watts(events: list[_Event]) -> float:
    """Return the mean power between the marks, weighted by the time before each reading."""
    marks = {event.key: event.time_ms for event in events}
    begin = marks["power_measurement_start"]
    readings = [e for e in events if e.key == "power_reading" and e.time_ms > begin]
    end = marks.get("power_measurement_stop", begin)
    if end <= begin:  # some stops repeat the time of the start
        end = max((event.time_ms for event in readings), default=begin)
    energy, before = 0.0, begin
    for reading in readings:
        if reading.time_ms <= end:
            energy += _number(reading.value) * (reading.time_ms - before)
            before = reading.time_ms
    if before == begin:
        raise ValueError("no power_reading between its marks")
    return energy / (end - begin) * _efficiency(events)


def _switch_watts(events: list[_Event]) -> float:
    estimates = [e.value for e in events if e.key == "interconnect_power_est"]
    return _number(estimates[0]) * _efficiency(events) if estimates else _node_watts(events)


def _efficiency(events: list[_Event]) -> float:
    return next((_number(e.value) for e in events if e.key == "conversion_eff"), 1.0)


def _events(path: Path) -> Iterator[_Event]:
    with open(path, "rb") as file:
        while line := file.readline(LONGEST_LINE):
            at = line.rfind(TOKEN)
            if at >= 0:
                event = json.loads(line[at + len(TOKEN) :])
                yield _Event(_number(event["time_ms"]), str(event["key"]), event["value"])


def _number(value: Any) -> float:
    if not _is_number(value):
        raise ValueError(f"{value!r:.40} is not a number")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
