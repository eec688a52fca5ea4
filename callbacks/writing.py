"""Write a run's files: an error names the path, the reason and what to do; the first one counts."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from callbacks.checkpoint_files import free_mib

PROBE_BYTES = 2**20


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the operating system into one that says which file, why and what to do."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error.strerror or str(error)) from error


@contextmanager
def reporting_errors(what: str) -> Iterator[None]:
    """Print an error of the operating system: after another one it must not take its place."""
    try:
        yield
    except OSError as error:
        print(f"also, {what}: {error}", file=sys.stderr)


def unwritable(path: Path, reason: str, hint: str = "") -> OSError:
    """Return the error to raise where a file of a run could not be written."""
    existing = next(folder for folder in path.absolute().parents if folder.is_dir())
    return OSError(
        f"{path} cannot be written ({reason}), {free_mib(existing)} MiB are free; make room, or "
        f"choose another directory with --output_root DIR{hint}"
    )


def reason_of_failure(folder: Path) -> str:
    """Find out why a library failed to write in a folder, whose error does not say."""
    probe = folder / f".probe-{os.getpid()}"
    try:
        probe.write_bytes(bytes(PROBE_BYTES))
    except OSError as error:
        return error.strerror or str(error)
    finally:
        with suppress(OSError):  # a read-only file system
            probe.unlink(missing_ok=True)
    return "the write failed"
