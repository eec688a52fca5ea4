"""Files and folders that appear complete or not at all, and locks between processes."""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

SILENT_SECONDS = 5.0  # demo data is ready by then


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that replaces ``path`` on success and is removed on an error."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave the name without the content
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    with atomic_file(path) as file:
        file.write(json.dumps(content, indent=1).encode())


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Make a temporary folder that is renamed to ``target`` on success and removed on an error.

    If another process finishes ``target`` first, its folder stays and ours is dropped.

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
        partial.chmod(0o777 & ~_umask())  # mkdtemp makes it private; data sets are often shared
        yield partial
        try:
            partial.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; say so on standard error if another process holds it for long."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=SILENT_SECONDS)
    except Timeout:
        print(f"waiting for the process that holds {path}", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _umask() -> int:
    mask = os.umask(0)  # it can only be read by setting it
    os.umask(mask)
    return mask
