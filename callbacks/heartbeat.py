"""A file that a run writes every few seconds while it lives, for processes on other machines."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

NAME = "heartbeat"
SECONDS = 5.0
# Longer than a file server takes to show a change, or a busy process to come to writing one.
WATCHED_SECONDS = 4 * SECONDS


class Heartbeat:
    """Write the file from a thread of its own until ``stop``, which removes it.

    Args:
        folder: The run's directory.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._stopped = folder / NAME, threading.Event()
        self._beat(0)
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(5)  # a beat on its way would write the file anew; a disk may hang
        with suppress(OSError):
            self._path.unlink()

    def _run(self) -> None:
        number = 0
        while not self._stopped.wait(SECONDS):
            number += 1
            self._beat(number)

    def _beat(self, number: int) -> None:
        with suppress(OSError):  # a full disk is reported by the files that matter
            self._path.write_text(f"{number}\n")


def living(folders: Iterable[Path], seconds: float = WATCHED_SECONDS) -> set[Path]:
    """Return the runs whose heartbeat changes while it is watched.

    Nothing is compared with this machine's clock, which may differ from the other's.

    Args:
        folders: Directories of runs.
        seconds: How long to watch.

    Returns:
        Those of the runs that live.
    """
    before = {folder: pulse for folder in folders if (pulse := _pulse(folder)) is not None}
    alive: set[Path] = set()
    end = time.monotonic() + seconds
    while len(alive) < len(before) and time.monotonic() < end:
        time.sleep(min(0.5, seconds))
        alive = {folder for folder, pulse in before.items() if _pulse(folder) != pulse}
    return alive


def pid_namespace() -> str | None:
    """Return what tells process numbers of two containers apart; ``None`` but on Linux."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _pulse(folder: Path) -> tuple[str, int] | None:
    try:
        # Opening a file asks the server; its facts alone may come from this machine's cache.
        with (folder / NAME).open() as file:
            return file.read(), os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return None
