"""Break runs on purpose: forks that kill themselves, time budgets and counts of the outcomes."""

from __future__ import annotations

import os
import random
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

SECONDS = float(os.environ.get("FAULT_SECONDS", "40"))
"""For each test; the first rounds are always done."""
FEWEST = 8


def rounds(fewest: int = FEWEST) -> Iterator[random.Random]:
    """Yield a random generator per round until the budget is used up."""
    end, number = time.monotonic() + SECONDS, 0
    while number < fewest or time.monotonic() < end:
        yield random.Random(number)
        number += 1


class Outcomes(Counter[str]):
    """Counts by name, printed as one line; nothing may have gone wrong in silence."""

    def assert_none_silent(self, what: str) -> None:
        told = [f"{n} {name}" for name, n in sorted(self.items()) if n and name != "SILENT"]
        counts = ", ".join(told)
        print(f"\nfaults, {what}: {self.total()} tried: {counts}; {self['SILENT']} silent")
        assert self["SILENT"] == 0


def in_child(work: Callable[[], None], *, killed_after: float | None = None) -> int:
    """Run a function in a fork; return its exit code, or minus the signal that ended it.

    Args:
        work: What to do; the code is 1 if it raises an error.
        killed_after: Seconds after which it is killed.
    """
    if not (child := os.fork()):
        code = 1
        try:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 1)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if killed_after is not None:
        time.sleep(killed_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Events:
    """Count the calls that make a file appear; kill the process at one of them.

    Args:
        at: Number of the call, from 0; ``None`` only counts.
        draw: Says whether before, inside or after it.
    """

    def __init__(self, at: int | None, draw: random.Random) -> None:
        self.at, self.draw, self.count = at, draw, 0

    def watch(self, function: Callable[..., object]) -> Callable[..., object]:
        """Wrap a function that writes or renames."""

        def watched(*args: object, **settings: object) -> object:
            due = self.count == self.at
            self.count += 1
            when = self.draw.choice(("before", "inside", "after")) if due else ""
            if when == "before":
                kill_myself()
            result = function(*args, **settings)
            if when == "inside":
                cut(args, self.draw)
            if when:
                kill_myself()
            return result

        return watched


def cut(args: tuple[object, ...], draw: random.Random) -> None:
    """Leave a part of the file that a call has just written, as a kill inside it would."""
    for path in (
        Path(arg) for arg in args if isinstance(arg, (str, Path)) and "\n" not in str(arg)
    ):
        # Only files under a temporary name: the others were renamed, which is all or nothing.
        if path.is_file() and (path.suffix == ".new" or ".partial-" in path.name):
            size = path.stat().st_size
            os.truncate(path, draw.randrange(size + 1))
