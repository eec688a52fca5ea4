"""The signals that end a run in order: of Ctrl-C, a batch system and a closed terminal."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def handled() -> list[signal.Signals]:
    """Return the signals to handle: under ``nohup`` SIGHUP stays without effect."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in SIGNALS if not (ignored and number == signal.SIGHUP)]


def untouched() -> list[signal.Signals]:
    """Return those that would end the process without a word."""
    return [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]


@contextmanager
def signals_as(
    handler: Callable[[int, Any], None] | signal.Handlers,
    numbers: Collection[signal.Signals] | None = None,
) -> Iterator[None]:
    """Handle some signals, by default all, in another way; in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.getsignal(number) for number in (handled() if numbers is None else numbers)
    }
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
