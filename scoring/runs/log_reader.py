"""Reads one mllog file (``:::MLLOG {...}`` lines) into a ``RunLog``.

The file is streamed, so a log of 100 MB needs no more memory than one of 100 kB. Keys are read from
the JSON, never guessed from a substring.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from scoring.runs.log_files import TOKEN, decode, lines, unreadable, wide_encoding
from scoring.runs.logs import Evaluation, Mark, RunLog, is_number
from scoring.runs.plain_text import CONTROL, plain, short

MOST_FACTS = 500
# How far an evaluation is into training, by the first that its metadata has.
COUNTS = ("epoch_num", "samples_count", "step_num")
MOST_EVALUATIONS = 100_000
# Ranks may each log the same event; further apart than this it is another event.
SAME_EVENT_MS = 1000
# Keys that the score relies on: two different values are a problem.
RELIED_ON = frozenset({"submission_benchmark", "submission_division", "global_batch_size"})


def has_events(path: Path) -> bool:
    """Return whether a file has an mllog line; reading stops at the first one.

    Args:
        path: Any file.

    Returns:
        True also for a file that cannot be read, so that ``read_log`` can say why.
    """
    if unreadable(path):
        return True
    try:
        with open(path, "rb") as file:
            return any(TOKEN in line for line in lines(file))
    except OSError:
        return True


def read_log(path: Path) -> RunLog:
    """Read one log file; a damaged one is reported in ``problems`` and never raises.

    Args:
        path: Any file, in UTF-8, Latin-1 or UTF-16; a line may have a prefix such as ``0: ``
            before the ``:::MLLOG`` token.

    Returns:
        The facts, with ``problems`` and ``warnings`` filled.
    """
    log = RunLog(Path(path))
    reader = _Reader(log)
    if reason := unreadable(Path(path)):
        log.unreadable = reason
        log.problems.append(f"cannot be read: {reason}")
        return log
    try:
        with open(path, "rb") as file:
            log.wide = wide_encoding(file.read(4096)) is not None
            file.seek(0)
            for number, line in enumerate(lines(file), start=1):
                log.lines = number
                at = line.rfind(TOKEN)
                if at >= 0:
                    reader.read_line(number, line[at + len(TOKEN) :])
    except OSError as error:
        log.unreadable = error.strerror or str(error)
        log.problems.append(f"cannot be read: {log.unreadable}")
        return log
    reader.finish()
    return log


class _Event(NamedTuple):
    line: int
    key: str
    time_ms: float
    value: Any
    metadata: dict[str, Any]


def _parse(line: int, event: Any) -> _Event:
    key, time_ms, value = event["key"], float(event["time_ms"]), event["value"]
    metadata = event.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise ValueError(f"metadata is not an object but {short(metadata)}")
    if not isinstance(key, str) or not math.isfinite(time_ms):
        raise ValueError("key or time_ms has the wrong type")
    return _Event(line, key, time_ms, value, metadata)


class _Reader:
    """Feeds the lines of one file into a ``RunLog``."""

    def __init__(self, log: RunLog) -> None:
        self.log = log
        self.broken: list[tuple[int, str]] = []
        # Evaluations without a number.
        self.no_quality: list[tuple[int, str]] = []
        self.eval_start: float | None = None
        # Where metrics are logged apart, the evaluation that each amount of training belongs to.
        self.parts: dict[tuple[float | None, ...], Evaluation] = {}
        self.handlers: dict[str, Callable[[_Event], None]] = {
            "seed": self._seed,
            "eval_accuracy": self._evaluation,
            "run_start": self._start,
            "run_stop": self._stop,
            "init_start": self._init_start,
            "init_stop": self._init_stop,
            "eval_start": self._eval_start,
            "eval_stop": self._eval_stop,
            **dict.fromkeys(("epoch_start", "block_start"), self._train_start),
        }

    def read_line(self, number: int, raw: bytes) -> None:
        """Read one mllog line; ``raw`` is what follows the token."""
        self.log.events += 1
        self.log.event_lines.append(number)
        try:
            text = decode(raw).strip()
            content = json.loads(text)
            # Most lines have no control character, as such or written as JSON does.
            event = _parse(
                number, plain(content) if "\\u00" in text or CONTROL.search(text) else content
            )
            self.handlers.get(event.key, self._fact)(event)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            self.broken.append((number, _reason(error)))

    def _fact(self, event: _Event) -> None:
        facts, key = self.log.facts, event.key
        if key not in facts:
            if len(facts) < MOST_FACTS:
                facts[key] = event.value
        elif key in RELIED_ON and event.value != facts[key]:
            self.log.conflicts.setdefault(key, event.value)
        if key == "global_batch_size":
            self._check_number(key, event, event.value, least=1)
        if key == "train_samples":
            # BERT logs it last, as the samples trained; a plan logged earlier is not the result.
            facts[key] = event.value

    def _seed(self, event: _Event) -> None:
        logged = event.metadata.get("lineno")
        lineno = int(logged) if isinstance(logged, int | float) and math.isfinite(logged) else 0
        self.log.seeds.append((str(event.metadata.get("file", "")), lineno, event.value))

    def _evaluation(self, event: _Event) -> None:
        self._work(event)
        metric = event.metadata.get("metric")
        name = metric if isinstance(metric, str) else "value"
        quality = event.value if isinstance(event.value, dict) else {name: event.value}
        numbers = {
            str(k): float(v)
            for k, v in quality.items()
            if isinstance(v, int | float) and not isinstance(v, bool)
        }
        if not numbers:
            self.no_quality.append((event.line, short(event.value)))
            return
        counts = tuple(self._count(key, event) for key in COUNTS)
        progress = next((count for count in counts if count is not None), None)
        if self._completes(name, counts, numbers):
            return
        if len(self.log.evaluations) < MOST_EVALUATIONS:
            found = Evaluation(event.time_ms, progress, numbers, event.line, *counts[1:])
            self.log.evaluations.append(found)
            if name != "value":
                self.parts[counts] = found
        if not self.log.stops:
            self.log.evaluations_before_stop = len(self.log.evaluations)

    def _completes(
        self, name: str, counts: tuple[float | None, ...], numbers: dict[str, float]
    ) -> bool:
        """Add a metric that is logged apart, as Stable Diffusion's CLIP is; the last counts."""
        known = self.parts.get(counts)
        if name == "value" or known is None:
            return False
        known.quality.update(numbers)
        return True

    def _work(self, event: _Event) -> None:
        first = self.log.first_work
        if first is None or event.time_ms < first.time_ms:
            self.log.first_work = Mark(event.time_ms, event.line)

    def _count(self, key: str, event: _Event) -> float | None:
        """Return a count of the metadata, rounded as in the official tool."""
        value = event.metadata.get(key)
        if value is not None:
            self._check_number(key, event, value)
        return round(float(value), 3) if is_number(value) else None

    def _check_number(self, key: str, event: _Event, value: Any, least: float = 0) -> None:
        known = [name for name, _, _ in self.log.no_numbers]
        if key not in known and not (is_number(value) and value >= least):
            self.log.no_numbers.append((key, event.line, short(value)))

    def _start(self, event: _Event) -> None:
        self.log.starts.append(Mark(event.time_ms, event.line))

    def _stop(self, event: _Event) -> None:
        status = event.metadata.get("status")
        text = status if status is None or isinstance(status, str) else short(status)
        self.log.stops.append(Mark(event.time_ms, event.line, text))

    def _init_start(self, event: _Event) -> None:
        known = self.log.init_start_ms
        self.log.init_start_ms = event.time_ms if known is None else min(known, event.time_ms)

    def _init_stop(self, event: _Event) -> None:
        self.log.init_stop_ms = event.time_ms

    def _eval_start(self, event: _Event) -> None:
        self._work(event)
        self.eval_start = event.time_ms

    def _eval_stop(self, event: _Event) -> None:
        if self.eval_start is not None and len(self.log.eval_spans) < MOST_EVALUATIONS:
            self.log.eval_spans.append((self.eval_start, event.time_ms))
        self.eval_start = None

    def _train_start(self, event: _Event) -> None:
        self._work(event)
        known = self.log.train_start_ms
        self.log.train_start_ms = event.time_ms if known is None else min(known, event.time_ms)

    def finish(self) -> None:
        """Judge the whole log after its last line."""
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
        if self.no_quality:
            more = f" (and {len(self.no_quality) - 1} more)" if len(self.no_quality) > 1 else ""
            line, value = self.no_quality[0]
            self.log.warnings.append(f"line {line}: eval_accuracy without a number{more}: {value}")
        if self.broken:
            number, reason = self.broken[0]
            more = f" (and {len(self.broken) - 1} more)" if len(self.broken) > 1 else ""
            self.log.problems.append(f"line {number}: not a valid mllog line{more}: {reason}")
        for key, other in self.log.conflicts.items():
            first = self.log.facts[key]
            self.log.problems.append(f"{key} is given as {short(first)} and as {short(other)}")

    def _judge_marks(self) -> None:
        log = self.log
        if not log.starts:
            log.problems.append("no run_start: the clock never started")
        elif not log.stops:
            log.problems.append("no run_stop: truncated, killed or still running")
        elif log.start is None:
            log.problems.append(
                f"out of order: run_stop (line {log.stops[0].line}) comes before run_start "
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
        return f"broken JSON ({error.msg} at character {error.pos}); truncated?"
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing"
    return str(error) or type(error).__name__
