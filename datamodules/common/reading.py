"""Read files that others wrote: what cannot be read, and what unpacks without end, is one line.

``Path.glob`` and ``os.walk`` skip a folder that they may not read, as if it were empty; ``entries``
and ``files_below`` do not. Zip bombs are small files that unpack to more than any machine holds.
"""

import gzip
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BLOCK = 2**20


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an error of the operating system into a ValueError of one line that names the file."""
    try:
        yield
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path | str, error: OSError) -> ValueError:
    """Return the error to raise when a file or folder exists and cannot be read: one line."""
    return ValueError(f"{error.filename or path}: cannot be read ({error.strerror or error})")


def entries(folder: Path) -> list[Path]:
    """Return what is in a folder, sorted.

    Args:
        folder: The folder, or a link to it.

    Returns:
        Its entries, hidden ones too; none if there is no such folder.

    Raises:
        ValueError: If it cannot be read; one line.
    """
    if not os.path.lexists(folder):
        return []
    with reading(folder):
        return sorted(folder / name for name in os.listdir(folder))


def files_below(folder: Path, ending: str = "") -> list[Path]:
    """Return the files below a folder whose names have an ending, sorted; links are followed.

    Args:
        folder: The folder.
        ending: Such as ``.flac``; empty for all files.

    Returns:
        Their paths below ``folder``, links not resolved.

    Raises:
        ValueError: If a folder below cannot be read, or links lead in a circle; one line.
    """
    return sorted(_files_below(folder, ending, frozenset()))


def _files_below(folder: Path, ending: str, above: frozenset[str]) -> Iterator[Path]:
    here = os.path.realpath(folder)
    if here in above:
        raise ValueError(f"{folder}: a link to a folder that it is in; remove it")
    with reading(folder), os.scandir(folder) as found:
        listed = [(entry.name, entry.is_dir()) for entry in found]
    for name, is_folder in listed:
        if is_folder:
            yield from _files_below(folder / name, ending, above | {here})
        elif name.endswith(ending):
            yield folder / name


class BoundedGzip:
    """A gzip file that is read in blocks, to a limit; use it as a file opened for reading.

    Args:
        file: The packed file, or anything with ``read``.
        path: Its name, for the message.
        most_bytes: Most that a sound file unpacks to.

    Raises:
        ValueError: From ``read``, once more was unpacked; one line.
    """

    def __init__(self, file: Any, path: Path, most_bytes: int) -> None:
        self._file: Any = gzip.GzipFile(fileobj=file, mode="rb")
        self._path, self._most, self._done = path, most_bytes, 0

    def __enter__(self) -> "BoundedGzip":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def read(self, size: int = BLOCK) -> bytes:
        """Return at most ``size`` bytes; none at the end, where the checksum has been verified."""
        block = self._file.read(size)
        self._done += len(block)
        if self._done > self._most:
            raise ValueError(
                f"{self._path}: unpacks to more than {self._most:,} bytes, which no sound file "
                "does; fetch it again"
            )
        return block
