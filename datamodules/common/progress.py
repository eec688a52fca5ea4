"""Progress of a preparation, for whoever shows it: the stage, items done, time left.

    with stage("reading annotations"):
        ...

A command shows ``current()`` in its live line or log; in a notebook ``outcomes`` draws a bar.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

FORESEEABLE_SECONDS = 10 * 24 * 3600.0
SECONDS_FOR_A_PACE = 2.0


class Stage:
    """A stage of a preparation in progress.

    Args:
        title: What is done, such as ``writing shards``.
        total: Number of items; 0 where they are not counted.
        workers: Items that are in work at the same time.
    """

    def __init__(self, title: str, total: int = 0, workers: int = 1) -> None:
        self.title, self.total, self.done = title, total, 0
        self._workers, self._began = workers, time.monotonic()

    @property
    def seconds(self) -> float:
        """Time since its start."""
        return time.monotonic() - self._began

    def seconds_left(self) -> float | None:
        """Estimate the time left from the mean pace; ``None`` until each worker did an item."""
        if not self._workers <= self.done < self.total or self.seconds < SECONDS_FOR_A_PACE:
            return None
        left = self.seconds / self.done * (self.total - self.done)
        return left if left < FORESEEABLE_SECONDS else None

    def text(self) -> str:
        """Return the title and how many items are done."""
        return f"{self.title}, {self.done:,} of {self.total:,}" if self.total else self.title


_STAGES: list[Stage] = []
_watchers: list[None] = []


@contextmanager
def stage(title: str, total: int = 0, *, workers: int = 1) -> Iterator[Stage]:
    """Name what is done within; the innermost stage is the current one."""
    begun = Stage(title, total, workers)
    _STAGES.append(begun)
    try:
        yield begun
    finally:
        _STAGES.remove(begun)


def current() -> Stage | None:
    """Return the innermost stage in progress; may be called by any thread."""
    try:
        return _STAGES[-1]
    except IndexError:
        return None


@contextmanager
def watched() -> Iterator[None]:
    """Say that somebody shows ``current()`` meanwhile, so that no bar is drawn."""
    _watchers.append(None)
    try:
        yield
    finally:
        _watchers.pop()


def is_watched() -> bool:
    """Whether somebody shows ``current()``."""
    return bool(_watchers)
