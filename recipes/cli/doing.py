"""Progress of a command's work on its data, for the live line and the log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from callbacks.live_line import LIVE, human_time
from datamodules.common import progress


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Show a command's work and, within, the stage that its data is in."""
    began = time.monotonic()
    LIVE.show(lambda: text(what, time.monotonic() - began))
    with progress.watched():
        yield


def text(what: str, seconds: float) -> str:
    """Return the line for now.

    Args:
        what: The command's work, shown between stages.
        seconds: Since it began.

    Returns:
        The stage of its data with the time so far and, if known, the time left.
    """
    stage = progress.current()
    if stage is None:
        return f"{what} ... {human_time(seconds)}"
    left = stage.seconds_left()
    more = "" if left is None else f", about {human_time(max(60.0, left))} left"
    return f"{stage.text()} ... {human_time(stage.seconds)}{more}"
