"""A run's checkpoints, files or folders: two are kept, each durable once it has its name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
KEPT = 3  # the last, the one before, and the one that is being written


def keep(fresh: Path) -> None:
    """Make a complete file or folder ``last.ckpt``, and what was that ``previous.ckpt``."""
    last, previous = fresh.with_name(LAST), fresh.with_name(PREVIOUS)
    # Else a power cut could leave the name without the content.
    for path in (*(fresh.iterdir() if fresh.is_dir() else ()), fresh):
        _sync(path)
    if last.exists():
        if last.is_dir() or previous.is_dir():  # no folder takes another's place at once
            remove(previous)
        # Killed between the two lines, a run is resumed from its previous checkpoint.
        os.replace(last, previous)
    os.replace(fresh, last)
    _sync(fresh.parent)


def remove(path: Path) -> None:
    """Remove a checkpoint, if there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a file, or a folder of torch's distributed checkpoint."""
    return path.is_file() or any((path / name).is_file() for name in (".metadata", "meta.pt"))


def checkpoint_of(folder: Path) -> Path | None:
    """Return a run's newest checkpoint; ``None`` if it left none."""
    paths = (folder / "checkpoints" / name for name in (LAST, PREVIOUS))
    return next((path for path in paths if is_checkpoint(path)), None)


def free_mib(folder: Path) -> int:
    return shutil.disk_usage(folder).free // 2**20


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
