"""Says what takes long: on a terminal in one line that is erased, elsewhere now and then."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType

SECONDS_BETWEEN_LINES = 20.0
SECONDS_BETWEEN_FRAMES = 0.1


class Progress:
    """One task that takes seconds or minutes, as a context."""

    def __init__(self, text: str, total: int = 0) -> None:
        self.text, self.total = text, total
        self.on_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.pause = SECONDS_BETWEEN_FRAMES if self.on_terminal else SECONDS_BETWEEN_LINES
        self.last = time.monotonic()

    def __enter__(self) -> Progress:
        if self.on_terminal:
            self.show(0)
        return self

    def show(self, done: int) -> None:
        """Say how many of the total are done."""
        now = time.monotonic()
        if done and now - self.last < self.pause:
            return
        self.last = now
        counted = f": {done} of {self.total}" if self.total else f": {done}" if done else ""
        if self.on_terminal:
            print(f"\r{self.text}{counted} ...", end="", file=sys.stderr, flush=True)
        else:
            print(f"{self.text}{counted}", file=sys.stderr, flush=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.on_terminal:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)
