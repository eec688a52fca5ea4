"""Contents of one mllog file, and what is wrong with it.

``problems`` make the time of a run unusable, ``warnings`` do not; each is one line of text.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# No count or time in a log is larger; a float holds each exactly enough.
LARGEST = 1e18


def is_number(value: Any) -> bool:
    """Return whether a logged value is a number that can be reckoned with.

    Args:
        value: Any JSON value.

    Returns:
        False also for true, NaN, infinity and integers of hundreds of digits.
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


@dataclass(frozen=True)
class Evaluation:
    """One ``eval_accuracy`` line."""

    time_ms: float
    """Milliseconds since the Unix epoch."""
    progress: float | None
    """The line's ``epoch_num``, else its ``samples_count`` or ``step_num``; None without any."""
    quality: dict[str, float]
    """Metric -> value; a scalar is named ``value``."""
    line: int
    """Line in the file, counted from 1."""
    samples: float | None = None
    """The line's ``samples_count``, which some logs have next to another ``epoch_num``."""


@dataclass(frozen=True)
class Mark:
    """One line that marks a moment, such as ``run_start``."""

    time_ms: float
    line: int
    status: str | None = None


@dataclass
class RunLog:
    """The contents of one log, filled by ``scoring.runs.log_reader``."""

    path: Path
    lines: int = 0
    events: int = 0
    unreadable: str | None = None
    """Why the file could not be read at all, so that it is not known what the run did."""
    wide: bool = False
    """The file is UTF-16, which the official tools cannot read."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Key -> first value of every point event except evaluations."""
    conflicts: dict[str, Any] = field(default_factory=dict)
    """Key -> a later, different value of a key that the score relies on."""
    seeds: list[tuple[str, int, Any]] = field(default_factory=list)
    """(file, line, value) of every ``seed`` event."""
    evaluations: list[Evaluation] = field(default_factory=list)
    starts: list[Mark] = field(default_factory=list)
    stops: list[Mark] = field(default_factory=list)
    evaluations_before_stop: int = 0
    """Number of evaluations before the first run_stop in the file."""
    first_work: Mark | None = None
    """The earliest line of training or evaluation."""
    init_start_ms: float | None = None
    init_stop_ms: float | None = None
    train_start_ms: float | None = None
    """First epoch_start or block_start."""
    eval_spans: list[tuple[float, float]] = field(default_factory=list)
    """Every logged interval from eval_start to eval_stop, milliseconds since the Unix epoch."""
    no_numbers: list[tuple[str, int, str]] = field(default_factory=list)
    """(key, line, value) of the first batch size and first progress that are no numbers."""
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    event_lines: array[int] = field(default_factory=lambda: array("I"))
    """File line of every mllog line, in order (the official checker counts mllog lines only)."""

    @property
    def benchmark(self) -> str | None:
        """mllog name of the benchmark; None if the log does not name it."""
        value = self.facts.get("submission_benchmark")
        return value if isinstance(value, str) else None

    @property
    def division(self) -> str | None:
        """``closed`` or ``open``, also from "close" and capitals; None if neither is logged."""
        value = str(self.facts.get("submission_division", "")).strip().lower()
        return {"close": "closed", "closed": "closed", "open": "open"}.get(value)

    @property
    def global_batch_size(self) -> int | None:
        """Samples per optimizer step over all devices; None if not logged."""
        value = self.facts.get("global_batch_size")
        return int(value) if is_number(value) and value >= 1 else None

    @property
    def status(self) -> str | None:
        """``success``, ``aborted`` or another word of the first run_stop; None without one."""
        return self.stops[0].status if self.stops else None

    @property
    def encoding_problem(self) -> str | None:
        """Why no official tool can read the file, however valid its lines; else None."""
        if not (self.wide and self.events):
            return None
        return "UTF-16; the official tools read UTF-8 only: convert it before you submit"

    @property
    def start(self) -> Mark | None:
        """The last run_start before the first run_stop, as the official summarizer takes it."""
        before = [m for m in self.starts if not self.stops or m.line < self.stops[0].line]
        return before[-1] if before else None

    @property
    def evaluations_in_time(self) -> list[Evaluation]:
        """The evaluations before run_stop; all of them if none precedes it."""
        return self.evaluations[: self.evaluations_before_stop or None]

    @property
    def seconds(self) -> float | None:
        """Seconds from run_start to the first run_stop; None if the log has a problem."""
        if self.problems or self.start is None or not self.stops:
            return None
        return (self.stops[0].time_ms - self.start.time_ms) / 1000
