"""Checks that a log's clock is honest: it runs from before the data to the last evaluation."""

from __future__ import annotations

from datetime import UTC, datetime

from scoring.rules.rounds import BenchmarkRules
from scoring.runs.logs import RunLog

# Times of one moment, logged by several processes, may be this far apart.
SLACK_MS = 1000
# mllog counts milliseconds since 1970; a log of before 2015 counts something else.
EARLIEST_MS = datetime(2015, 1, 1, tzinfo=UTC).timestamp() * 1000
# More than a day, were it seconds.
LONGEST_IN_SECONDS = 100_000
LATEST_MS = datetime(2100, 1, 1, tzinfo=UTC).timestamp() * 1000


def clock_fault(log: RunLog, bench: BenchmarkRules | None) -> str | None:
    """Describe why the time of a run cannot be what it took; None if nothing contradicts it.

    Args:
        log: A log.
        bench: The benchmark's rules; of some, checkpoints may be evaluated after the clock.

    Returns:
        One line of text, with the line in the file.
    """
    start = log.start
    if start is None:
        return None
    if fault := unit_fault(log):
        return fault
    work = log.first_work
    if work is not None and start.time_ms - work.time_ms > SLACK_MS:
        early = (start.time_ms - work.time_ms) / 1000
        return f"training or evaluation (line {work.line}) began {early:.0f} s before run_start"
    return None if bench is not None and bench.asynchronous else _late_evaluation(log)


def unit_fault(log: RunLog) -> str | None:
    """Describe times that are not in milliseconds, of which no duration can be made; else None."""
    start = log.start
    # Milliseconds of a clock that does not count from 1970 (HugeCTR's in v0.7) still make a time.
    took = log.stops[0].time_ms - start.time_ms if start is not None and log.stops else 0.0
    if start is not None and start.time_ms < EARLIEST_MS and took > LONGEST_IN_SECONDS:
        return None
    if start is not None and not EARLIEST_MS <= start.time_ms < LATEST_MS:
        in_seconds = EARLIEST_MS <= start.time_ms * 1000 < LATEST_MS
        unit = "seconds" if in_seconds else "another unit"
        return f"time_ms {start.time_ms:g} (line {start.line}) is not in milliseconds but in {unit}"
    return None


def _late_evaluation(log: RunLog) -> str | None:
    stop = log.stops[0] if log.stops else None
    for evaluation in log.evaluations[: log.evaluations_before_stop] if stop else ():
        late = (evaluation.time_ms - stop.time_ms) / 1000 if stop else 0
        if late * 1000 > SLACK_MS and stop:
            return (
                f"the evaluation in line {evaluation.line} is {late:.0f} s later than run_stop "
                f"(line {stop.line}), which follows it"
            )
    return None
