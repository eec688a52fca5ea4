"""The one line at the bottom of a terminal that moves while a command works; a log gets a few.

No torch and no Lightning here: the line stands while they are imported.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

SECONDS_BETWEEN_PAINTS = 0.25
# A log file gets a line 10 s after a stage began, then after 20 s, 40 s ...
FIRST_SILENCE_SECONDS, LONGEST_SILENCE_SECONDS = 10.0, 600.0
ERASE_LINE = "\r\x1b[2K"
CONTROL_CODES = re.compile(r"\x1b\[[?\d;]*[A-Za-z]")


def human_time(seconds: float) -> str:
    """Write a duration as ``8.3 s``, ``2:05`` (minutes) or ``3:02:05`` (hours)."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def on_terminal() -> bool:
    """Whether standard error is a terminal that can erase a line."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


class LogPace:
    """Decide when a log file gets a line: the longer a stage lasts, the more rarely.

    A line is due 10, 20, 40 ... s after a stage began, and at most 600 s after the last one. A
    stage is told by its words in front of the first number.
    """

    def __init__(self, now: float) -> None:
        self._stage, self._began = "", now
        self._last, self._silence = now, FIRST_SILENCE_SECONDS

    def is_due(self, text: str, now: float) -> bool:
        """Whether to write this text now, at a monotonic time in seconds; to be asked often."""
        stage = re.split(r"\d", text)[0]
        if stage != self._stage:
            self._stage, self._began, self._silence = stage, now, FIRST_SILENCE_SECONDS
        if not text or now - self._last < self._silence:
            return False
        lasted = max(now - self._began, FIRST_SILENCE_SECONDS)
        self._last, self._silence = now, min(lasted, LONGEST_SILENCE_SECONDS)
        return True


class LiveLine:
    """Say what the process is doing: a thread repaints a terminal's last line.

    The training loop only sets what is shown, so that the line costs a step no time, and it moves
    through long steps. What anybody prints appears above it. Elsewhere than on a terminal the
    thread writes a line of its own at growing intervals. Until ``start`` nothing is shown.
    """

    def __init__(self) -> None:
        self._text: Callable[[], str] | None = None
        self._shown = ""
        self._live = False  # on a terminal
        self._mid_line = False  # others wrote half a line: wait for its end
        self._lock = threading.RLock()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._streams: tuple[Any, Any] = (None, None)
        self._registered = False

    def start(self) -> None:
        """Begin to show what ``show`` is given."""
        if self._thread is not None:
            return
        self._streams, live = (sys.stdout, sys.stderr), on_terminal()
        if live and sys.stdout.isatty():
            sys.stdout = _Above(sys.stdout, self)  # type: ignore[assignment]
        if live:
            sys.stderr = _Above(sys.stderr, self)  # type: ignore[assignment]
        if not self._registered:
            # A forked process has no such thread, so the fork waits for the end of a repaint:
            # otherwise nobody would release the locks of the thread and its stream there.
            os.register_at_fork(
                before=lambda: self._lock.acquire(),
                after_in_parent=lambda: self._lock.release(),
                after_in_child=self._forget,
            )
            self._registered = True
        self._end.clear()
        self._live, work = live, self._repaint if live else self._report
        self._thread = threading.Thread(target=work, name="live line", daemon=True)
        self._thread.start()

    def show(self, text: str | Callable[[], str]) -> None:
        """Show a text followed by the time since, or what a function returns at each repaint."""
        if isinstance(text, str):
            begun, what = time.monotonic(), text
            text = lambda: f"{what} ... {human_time(time.monotonic() - begun)}"  # noqa: E731
        with self._lock:
            self._text, self._mid_line = text, False
            if self._thread is not None and self._live:
                self._paint()

    def stop(self) -> None:
        """Erase the line and end the thread."""
        if self._thread is None:
            return
        self._end.set()
        self._thread.join()
        self._thread, self._text = None, None
        self._erase()
        if self._live:
            sys.stdout, sys.stderr = self._streams

    def write_above(self, stream: Any, text: str) -> int:
        """Write others' text in place of the line, which is repainted below it later."""
        with self._lock:
            self._erase()
            if plain := CONTROL_CODES.sub("", text):
                self._mid_line = not plain.endswith("\n")
            return int(stream.write(text))

    def _repaint(self) -> None:
        while not self._end.wait(SECONDS_BETWEEN_PAINTS):
            self._paint()

    def _report(self) -> None:
        pace = LogPace(time.monotonic())
        while not self._end.wait(SECONDS_BETWEEN_PAINTS):
            with self._lock:
                text = "" if self._text is None else self._text()
                if pace.is_due(text, time.monotonic()) and not self._end.is_set():
                    self._put(f"{text}\n")

    def _paint(self) -> None:
        with self._lock:
            if self._text is None or self._mid_line or self._end.is_set():
                return
            line = self._text()[: shutil.get_terminal_size().columns - 1]
            if line != self._shown:
                self._put(ERASE_LINE + line)
                self._shown = line

    def _erase(self) -> None:
        if self._shown:
            self._put(ERASE_LINE)
            self._shown = ""

    def _put(self, text: str) -> None:
        self._streams[1].write(text)
        self._streams[1].flush()

    def _forget(self) -> None:
        self._lock, self._thread, self._text, self._shown = threading.RLock(), None, None, ""


class _Above:
    """A stream of this process; its text appears above the live line."""

    def __init__(self, stream: Any, line: LiveLine) -> None:
        self._stream, self._line = stream, line

    def write(self, text: str) -> int:
        return self._line.write_above(self._stream, text)

    def writelines(self, lines: Any) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


LIVE = LiveLine()
"""The line of this process: a terminal has one last line."""
