"""The run's clock: monotonic, never paused, started by the system when the process starts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path


def process_start(pid: int) -> int | None:
    """When a process began, which tells two apart that had one number one after the other.

    Args:
        pid: Its number.

    Returns:
        Clock ticks since the machine started; ``None`` where the system does not say (only Linux
        does) or there is no such process.
    """
    try:
        # The name in parentheses may hold blanks; the start is the 20th field behind it.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def seconds_since_process_start() -> float:
    """Seconds that this process has existed, from the kernel where it tells (Linux), else 0.

    Returns:
        Seconds >= 0, resolution of one kernel tick (usually 0.01 s).
    """
    ticks = process_start(os.getpid())
    if ticks is None:
        return 0.0
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    return max(0.0, uptime - ticks / os.sysconf("SC_CLK_TCK"))


class RunClock:
    """Named moments of one run on a monotonic time line.

    ``init_start`` is set on construction to the moment the process started. Wall-clock stamps are
    derived from one reading of the wall clock, so their differences equal the monotonic ones even
    when somebody sets the machine's time during a run.

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
        """Current monotonic time.

        Returns:
            Seconds from an arbitrary origin.
        """
        return self._monotonic()

    def mark(self, name: str, at: float | None = None) -> float:
        """Set a named moment once; later calls change nothing, as a clock can't be stopped twice.

        Args:
            name: ``init_stop``, ``run_start`` or ``run_stop``.
            at: Monotonic seconds of a moment that has passed; now by default.

        Returns:
            The moment in monotonic seconds.
        """
        return self.marks.setdefault(name, self.now() if at is None else at)

    def between(self, start: str, stop: str | None = None) -> float:
        """Seconds from one moment to another, or to now.

        Args:
            start: Name of a moment.
            stop: Name of a later moment; now where it is ``None`` or was not reached.

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
        """Unix time of a moment, as the MLPerf log wants it.

        Args:
            moment: Monotonic seconds, the name of a moment, or ``None`` for now.

        Returns:
            Milliseconds since the Unix epoch.
        """
        if moment is None:
            moment = self.now()
        if isinstance(moment, str):
            moment = self.marks[moment]
        return round((moment + self._wall_minus_monotonic) * 1000)
