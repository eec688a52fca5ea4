"""The signals that end a run in order: of Ctrl-C, a batch system and a closed terminal."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def handled() -> list[signal.Signals]:
    """Return the signals to handle: under ``nohup`` SIGHUP stays without effect."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in SIGNALS if not (ignored and number == signal.SIGHUP)]


@contextmanager
def signals_as(handler: Callable[[int, Any], None] | signal.Handlers) -> Iterator[None]:
    """Handle the signals in another way during a block; in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in handled()}
    try:
        for number in before:
            signal.signal(number, handler)
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def interrupt(number: int, frame: Any) -> None:
    """Handle a signal as Ctrl-C."""
    raise KeyboardInterrupt
