"""The cache folder, and demo data sets in it.

A demo data set is written with ``build_once(demo_folder(...), write)``: safe to call from several
processes, safe to kill, safe to delete.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from datamodules.common.atomic import atomic_folder, locked
from datamodules.common.progress import stage


def cache_dir() -> Path:
    """Return the folder for data that can be rebuilt: ``$FINISHLINE_CACHE``, or a default."""
    if chosen := os.environ.get("FINISHLINE_CACHE"):
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("finishline", appauthor=False)


def demo_folder(stem: str, version: str, params: Mapping[str, object]) -> Path:
    """Return the cache folder of one generated data set.

    Args:
        stem: Benchmark or data set name, first part of the folder's name.
        version: The writer's version; raise it whenever the written bytes change.
        params: Everything else the bytes depend on (counts, sizes); values that JSON can hold.

    Returns:
        The folder, another one for each version and parameters; it exists only once complete.
    """
    digest = hashlib.sha256(json.dumps(dict(params), sort_keys=True).encode()).hexdigest()[:10]
    return cache_dir() / "demo" / f"{stem}-v{version}-{digest}"


def build_once(target: Path, write: Callable[[Path], None]) -> Path:
    """Create ``target`` with ``write`` unless it exists; one process works while others wait.

    Args:
        target: The folder wanted; it exists afterwards.
        write: Fills the temporary, empty folder it is given; if it raises, nothing is left behind.

    Returns:
        ``target``.

    Raises:
        ValueError: If the folder cannot be written; one line with the reason and what to do.
    """
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.parent / f".{target.name}.lock"):
            # Nobody else writes while we hold the lock: these were left by a killed process.
            for stale in target.parent.glob(f".{target.name}.partial-*"):
                shutil.rmtree(stale, ignore_errors=True)
            if not target.is_dir():
                with stage("generating the demo's data"), atomic_folder(target) as partial:
                    write(partial)
    except OSError as error:
        raise ValueError(
            f"{target}: generated data cannot be written ({error.strerror or error}); free some "
            "space or set FINISHLINE_CACHE to another directory"
        ) from error
    return target
