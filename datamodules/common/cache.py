"""Where generated and preprocessed data lives, and how a folder comes to exist whole or not at all.

A demo data set is written with ``build_once(demo_folder(...), write)``: safe to call from several
processes, safe to kill, safe to delete.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def cache_dir() -> Path:
    """The folder for data that can be rebuilt: ``$FINISHLINE_CACHE``, else the user's cache folder.

    Returns:
        The folder; it need not exist yet.
    """
    if chosen := os.environ.get("FINISHLINE_CACHE"):
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("finishline", appauthor=False)


def demo_folder(stem: str, version: str, params: Mapping[str, object]) -> Path:
    """The cache folder of one generated data set; another version or parameter is another folder.

    Args:
        stem: Benchmark or data set name, first part of the folder's name.
        version: The writer's version; raise it whenever the written bytes change.
        params: Everything else the bytes depend on (counts, sizes); values that JSON can hold.

    Returns:
        The folder; it exists only once the data set in it is complete.
    """
    digest = hashlib.sha256(json.dumps(dict(params), sort_keys=True).encode()).hexdigest()[:10]
    return cache_dir() / "demo" / f"{stem}-v{version}-{digest}"


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside ``target`` that takes its name on success and vanishes on error.

    If another process finished ``target`` meanwhile, its folder stays and ours is dropped.

    Args:
        target: The folder to create; its parents are made.

    Yields:
        The temporary folder to write into.

    Raises:
        OSError: If the parent folder cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    try:
        # mkdtemp makes the folder private; a data set in a shared place should be as readable
        # as any other folder the user makes.
        partial.chmod(0o777 & ~_umask())
        yield partial
        try:
            partial.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def build_once(target: Path, write: Callable[[Path], None]) -> Path:
    """Create ``target`` with ``write`` unless it exists; one process works while others wait.

    Args:
        target: The folder wanted; it exists afterwards.
        write: Fills the (temporary, empty) folder given to it. Whatever it raises leaves no
            folder behind.

    Returns:
        ``target``.

    Raises:
        OSError: If the parent folder cannot be written.
    """
    if target.is_dir():
        return target
    from filelock import FileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{target.name}.lock"):
        # Under the lock nobody else writes: what is left here belongs to a killed process.
        for stale in target.parent.glob(f".{target.name}.partial-*"):
            shutil.rmtree(stale, ignore_errors=True)
        if not target.is_dir():
            with atomic_folder(target) as partial:
                write(partial)
    return target


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
