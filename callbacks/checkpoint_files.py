"""The checkpoint files of a run: the last two are kept, each durable once it has its name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
KEPT = 3  # the last, the one before, and the one that is being written


def keep(fresh: Path) -> None:
    """Make a complete file ``last.ckpt``, and what was that ``previous.ckpt``."""
    last = fresh.with_name(LAST)
    _sync(fresh)  # else a power cut could leave the name without the content
    if last.exists():
        # Killed between the two lines, a run is resumed from its previous checkpoint.
        os.replace(last, fresh.with_name(PREVIOUS))
    os.replace(fresh, last)
    _sync(fresh.parent)


def checkpoint_of(folder: Path) -> Path | None:
    """Return a run's newest checkpoint; ``None`` if it left none."""
    paths = (folder / "checkpoints" / name for name in (LAST, PREVIOUS))
    return next((path for path in paths if path.is_file()), None)


def free_mib(folder: Path) -> int:
    return shutil.disk_usage(folder).free // 2**20


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
