"""Reads one mllog file (``:::MLLOG {...}`` lines) into the facts that a score needs.

The file is streamed, so a log of 100 MB costs no more memory than one of 100 kB. Keys are read from
the JSON, never guessed from a substring. What is wrong with a log is said in one line each:
``problems`` make its time unusable, ``warnings`` do not.
"""

from __future__ import annotations

import codecs
import io
import json
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

TOKEN = b":::MLLOG "
# A longer line is no log line of anybody's; the rest of it is skipped in pieces of this size.
LONGEST_LINE = 1 << 20
MOST_FACTS = 500
MOST_EVALUATIONS = 100_000
# Ranks may each log the same event; further apart than this it is another event.
SAME_EVENT_MS = 1000


@dataclass(frozen=True)
class Evaluation:
    """One ``eval_accuracy`` line."""

    time_ms: float
    """Milliseconds since the Unix epoch."""
    progress: float | None
    """The line's ``epoch_num``, in the benchmark's own unit; None if it has none."""
    quality: dict[str, float]
    """Metric -> value; a scalar's name is ``value``."""
    line: int
    """Line in the file, counted from 1."""


@dataclass(frozen=True)
class Mark:
    """One ``run_start`` or ``run_stop`` line."""

    time_ms: float
    line: int
    status: str | None = None


@dataclass
class RunLog:
    """What one log says, and what is wrong with it."""

    path: Path
    lines: int = 0
    events: int = 0
    wide: bool = False
    """The file is UTF-16, which the official tools cannot read."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Key -> first value of every point event but evaluations."""
    conflicts: dict[str, Any] = field(default_factory=dict)
    """Key -> a later, different value of a key that the score relies on."""
    seeds: list[tuple[str, int, Any]] = field(default_factory=list)
    """(file, line, value) of every ``seed`` event."""
    evaluations: list[Evaluation] = field(default_factory=list)
    starts: list[Mark] = field(default_factory=list)
    stops: list[Mark] = field(default_factory=list)
    evaluations_before_stop: int = 0
    """How many evaluations stand before the first run_stop in the file."""
    init_start_ms: float | None = None
    init_stop_ms: float | None = None
    eval_ms: float = 0.0
    """Sum of the logged eval_start..eval_stop intervals."""
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    event_lines: array[int] = field(default_factory=lambda: array("I"))
    """File line of every mllog line, in order (the official checker counts mllog lines only)."""

    @property
    def benchmark(self) -> str | None:
        """mllog name of the benchmark, or None if the log does not say."""
        value = self.facts.get("submission_benchmark")
        return value if isinstance(value, str) else None

    @property
    def division(self) -> str | None:
        """``closed`` or ``open``, as far as the log says; "close" and capitals are put right."""
        value = str(self.facts.get("submission_division", "")).strip().lower()
        return {"close": "closed", "closed": "closed", "open": "open"}.get(value)

    @property
    def global_batch_size(self) -> int | None:
        """Samples per optimizer step over all devices, or None if the log does not say."""
        value = self.facts.get("global_batch_size")
        return int(value) if isinstance(value, int | float) and math.isfinite(value) else None

    @property
    def status(self) -> str | None:
        """``success``, ``aborted`` or another word of the first run_stop; None without one."""
        return self.stops[0].status if self.stops else None

    @property
    def encoding_problem(self) -> str | None:
        """Why no official tool would read the file, however sound its lines are; else None."""
        if not (self.wide and self.events):
            return None
        return "UTF-16; the official tools read UTF-8 only: convert it before you submit"

    @property
    def start(self) -> Mark | None:
        """The last run_start before the first run_stop, as the official summarizer takes it."""
        before = [m for m in self.starts if not self.stops or m.line < self.stops[0].line]
        return before[-1] if before else None

    @property
    def seconds(self) -> float | None:
        """Seconds from run_start to the first run_stop; None if the log has a problem."""
        if self.problems or self.start is None or not self.stops:
            return None
        return (self.stops[0].time_ms - self.start.time_ms) / 1000


def has_events(path: Path) -> bool:
    """Whether a file holds any mllog line; it is read no further than the first.

    Args:
        path: Any file.

    Returns:
        True also where it cannot be read, so that ``read_log`` can say why.
    """
    try:
        with open(path, "rb") as file:
            return any(TOKEN in line for line in _lines(file))
    except OSError:
        return True


def read_log(path: Path) -> RunLog:
    """Read one log file, whatever state it is in.

    Args:
        path: Any file; UTF-8, Latin-1 and UTF-16 are read, and a line may bear a prefix such as
            ``0: `` before the ``:::MLLOG`` token.

    Returns:
        The facts, with ``problems`` and ``warnings`` filled.
    """
    log = RunLog(Path(path))
    reader = _Reader(log)
    try:
        with open(path, "rb") as file:
            log.wide = _wide_encoding(file.read(4096)) is not None
            file.seek(0)
            for number, line in enumerate(_lines(file), start=1):
                log.lines = number
                at = line.rfind(TOKEN)
                if at >= 0:
                    reader.take(number, line[at + len(TOKEN) :])
    except OSError as error:
        log.problems.append(f"cannot be read: {error.strerror}")
        return log
    reader.finish()
    return log


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines as bytes; UTF-16 files are recoded on the way, over-long lines cut."""
    head = file.read(4096)
    file.seek(0)
    encoding = _wide_encoding(head)
    if encoding is None:
        while line := file.readline(LONGEST_LINE):
            yield line
        return
    for line_text in io.TextIOWrapper(file, encoding=encoding, errors="replace"):
        yield line_text.encode()


def _wide_encoding(head: bytes) -> str | None:
    """The UTF-16 flavour of a file that begins with ``head``, or None for one-byte encodings."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if head.count(0) > len(head) // 3:
        return "utf-16-le" if head[1:2] == b"\0" else "utf-16-be"
    return None


def _decode(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


class _Reader:
    """Feeds the lines of one file into a ``RunLog``; holds what only the reading needs."""

    def __init__(self, log: RunLog) -> None:
        self.log = log
        self.broken: list[tuple[int, str]] = []
        self.eval_start: float | None = None

    def take(self, number: int, raw: bytes) -> None:
        """Take one mllog line: ``raw`` is what follows the token."""
        self.log.events += 1
        self.log.event_lines.append(number)
        try:
            self._event(number, json.loads(_decode(raw)))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            self.broken.append((number, _reason(error)))

    def _event(self, number: int, event: Any) -> None:
        key, time_ms, value = event["key"], float(event["time_ms"]), event["value"]
        metadata = event.get("metadata") or {}
        if not isinstance(metadata, dict):
            raise ValueError(f"metadata is no object but {metadata!r:.40}")
        if not isinstance(key, str) or not math.isfinite(time_ms):
            raise ValueError("key or time_ms of the wrong kind")
        handler = _HANDLERS.get(key)
        if handler:
            handler(self, number, time_ms, value, metadata)
        else:
            self._fact(key, value)

    def _fact(self, key: str, value: Any) -> None:
        facts = self.log.facts
        if key not in facts:
            if len(facts) < MOST_FACTS:
                facts[key] = value
        elif key in _RELIED_ON and value != facts[key]:
            self.log.conflicts.setdefault(key, value)
        if key == "train_samples":
            # BERT logs it last, as the samples trained; a plan logged earlier is not the result.
            facts["train_samples"] = value

    def _seed(self, number: int, time_ms: float, value: Any, metadata: dict[str, Any]) -> None:
        said = metadata.get("lineno")
        lineno = int(said) if isinstance(said, int | float) and math.isfinite(said) else 0
        place = (str(metadata.get("file", "")), lineno)
        self.log.seeds.append((*place, value))

    def _evaluation(
        self, number: int, time_ms: float, value: Any, metadata: dict[str, Any]
    ) -> None:
        quality = value if isinstance(value, dict) else {"value": value}
        numbers = {str(k): float(v) for k, v in quality.items() if isinstance(v, int | float)}
        if not numbers:
            self.log.warnings.append(f"line {number}: eval_accuracy without a number: {value!r}")
            return
        progress = metadata.get("epoch_num")
        progress = round(float(progress), 3) if isinstance(progress, int | float) else None
        if len(self.log.evaluations) < MOST_EVALUATIONS:
            self.log.evaluations.append(Evaluation(time_ms, progress, numbers, number))
        if not self.log.stops:
            self.log.evaluations_before_stop = len(self.log.evaluations)

    def _start(self, number: int, time_ms: float, value: Any, metadata: dict[str, Any]) -> None:
        self.log.starts.append(Mark(time_ms, number))

    def _stop(self, number: int, time_ms: float, value: Any, metadata: dict[str, Any]) -> None:
        status = metadata.get("status")
        self.log.stops.append(Mark(time_ms, number, None if status is None else str(status)))

    def _init_start(
        self, number: int, time_ms: float, value: Any, metadata: dict[str, Any]
    ) -> None:
        known = self.log.init_start_ms
        self.log.init_start_ms = time_ms if known is None else min(known, time_ms)

    def _init_stop(self, number: int, time_ms: float, value: Any, metadata: dict[str, Any]) -> None:
        self.log.init_stop_ms = time_ms

    def _eval_start(
        self, number: int, time_ms: float, value: Any, metadata: dict[str, Any]
    ) -> None:
        self.eval_start = time_ms

    def _eval_stop(self, number: int, time_ms: float, value: Any, metadata: dict[str, Any]) -> None:
        if self.eval_start is not None:
            self.log.eval_ms += max(0.0, time_ms - self.eval_start)
            self.eval_start = None

    def finish(self) -> None:
        """Judge the whole log once its last line was taken."""
        log = self.log
        if log.path.stat().st_size == 0:
            log.problems.append("empty file")
        elif log.events == 0:
            log.problems.append(f"no ':::MLLOG' line among its {log.lines} lines")
        else:
            self._judge_lines()
            self._judge_marks()
            self._judge_order()

    def _judge_order(self) -> None:
        evaluations = self.log.evaluations
        for before, after in zip(evaluations, evaluations[1:], strict=False):
            if before.time_ms - after.time_ms > SAME_EVENT_MS:
                seconds = (before.time_ms - after.time_ms) / 1000
                self.log.warnings.append(
                    f"out of order: the evaluation in line {after.line} is {seconds:.0f} s earlier "
                    f"than the one in line {before.line}"
                )
                return

    def _judge_lines(self) -> None:
        if self.broken:
            number, reason = self.broken[0]
            more = f" (and {len(self.broken) - 1} more)" if len(self.broken) > 1 else ""
            self.log.problems.append(f"line {number}: not a valid mllog line{more}: {reason}")
        for key, other in self.log.conflicts.items():
            first = self.log.facts[key]
            self.log.problems.append(f"{key} is given as {first!r} and as {other!r}")

    def _judge_marks(self) -> None:
        log = self.log
        if not log.starts:
            log.problems.append("no run_start: the clock never started")
        elif not log.stops:
            log.problems.append("no run_stop: cut off, killed or still running")
        elif log.start is None:
            log.problems.append(
                f"out of order: run_stop (line {log.stops[0].line}) stands before run_start "
                f"(line {log.starts[0].line})"
            )
        else:
            self._judge_repeats("run_start", log.starts)
            self._judge_repeats("run_stop", log.stops)
            if log.stops[0].time_ms <= log.start.time_ms:
                log.problems.append("out of order: run_stop is not later than run_start")

    def _judge_repeats(self, key: str, marks: list[Mark]) -> None:
        if len(marks) < 2:
            return
        spread = max(m.time_ms for m in marks) - min(m.time_ms for m in marks)
        where = f"{len(marks)} {key} lines (first: {marks[0].line}, last: {marks[-1].line})"
        if spread > SAME_EVENT_MS:
            self.log.problems.append(f"{where}, {spread / 1000:.1f} s apart: more than one run?")
        elif len({m.status for m in marks}) > 1:
            self.log.problems.append(f"{where} with different status words")
        else:
            self.log.warnings.append(f"{where} of the same moment")


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"broken JSON ({error.msg} at character {error.pos}); cut off?"
    if isinstance(error, KeyError):
        return f"no {error.args[0]!r} in it"
    return str(error) or type(error).__name__


_RELIED_ON = frozenset({"submission_benchmark", "submission_division", "global_batch_size"})
_HANDLERS = {
    "seed": _Reader._seed,
    "eval_accuracy": _Reader._evaluation,
    "run_start": _Reader._start,
    "run_stop": _Reader._stop,
    "init_start": _Reader._init_start,
    "init_stop": _Reader._init_stop,
    "eval_start": _Reader._eval_start,
    "eval_stop": _Reader._eval_stop,
}
