"""The run's clock: monotonic, never paused, counting from the start of the process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path


def process_start(pid: int) -> int | None:
    """Return when a process started, which tells apart two that had the same number in turn.

    Args:
        pid: The process's number.

    Returns:
        Clock ticks since the machine started; ``None`` if there is no such process, or on a
        system other than Linux.
    """
    try:
        # The name in parentheses may contain spaces; the start is the 20th field after it.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def seconds_since_process_start() -> float:
    """Return the age of this process in kernel ticks of mostly 0.01 s; 0 but on Linux."""
    ticks = process_start(os.getpid())
    if ticks is None:
        return 0.0
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    return max(0.0, uptime - ticks / os.sysconf("SC_CLK_TCK"))


class RunClock:
    """Named moments of one run on a monotonic time line.

    ``init_start`` is set on construction to the moment the process started. Wall-clock times are
    derived from one reading of the wall clock, so their differences equal the monotonic ones even
    when the machine's time is set during a run.

    Args:
        monotonic: Source of seconds that never goes back; replaced by a fake in tests.
        wall: Source of seconds since the Unix epoch; read once.
        age_seconds: Seconds that passed since the process started.

    Source:
        mlcommons/training_policies, training_rules.adoc (v1.0), "Run results": the clock starts
        before the data is touched, includes evaluation and may not be paused.
    """

    def __init__(
        self,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        age_seconds: float | None = None,
    ) -> None:
        self._monotonic = monotonic
        now = monotonic()
        self._wall_minus_monotonic = wall() - now
        age = seconds_since_process_start() if age_seconds is None else age_seconds
        self.marks: dict[str, float] = {"init_start": now - age}

    def now(self) -> float:
        """Return the monotonic time, in seconds from an arbitrary origin."""
        return self._monotonic()

    def mark(self, name: str, at: float | None = None) -> float:
        """Set a named moment, now or ``at`` a past one; a moment can be set only once.

        Args:
            name: ``init_stop``, ``run_start`` or ``run_stop``.
            at: Monotonic seconds.

        Returns:
            The moment in monotonic seconds, an earlier call's if there was one.
        """
        return self.marks.setdefault(name, self.now() if at is None else at)

    def between(self, start: str, stop: str | None = None) -> float:
        """Return the seconds from one moment to another, or to now where that was not reached.

        Args:
            start: Name of a moment.
            stop: Name of a later moment.

        Returns:
            Seconds; 0 where ``start`` was not reached.
        """
        if start not in self.marks:
            return 0.0
        end = self.marks.get(stop) if stop else None
        return (self.now() if end is None else end) - self.marks[start]

    @property
    def seconds(self) -> float:
        """Timed seconds so far: from ``run_start`` to ``run_stop`` or now."""
        return self.between("run_start", "run_stop")

    def epoch_ms(self, moment: float | str | None = None) -> int:
        """Return a moment in milliseconds since the Unix epoch, as the MLPerf log has it.

        Args:
            moment: Monotonic seconds, the name of a moment, or ``None`` for now.

        Returns:
            Milliseconds.
        """
        if moment is None:
            moment = self.now()
        if isinstance(moment, str):
            moment = self.marks[moment]
        return round((moment + self._wall_minus_monotonic) * 1000)
