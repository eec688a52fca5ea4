"""Files of ``torch.save``, read after their checksums, which ``torch.load`` does not look at."""

from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch

ZIP = b"PK\x03\x04"


def load_verified(path: Path, *, mmap: bool = False) -> Any:
    """Load the tensors and plain values of a file on the CPU.

    Args:
        path: A zip file, as torch has written since version 1.6, an older file, which has no
            checksums, or a folder of torch's distributed checkpoint, without its optimizers.
        mmap: Read tensors only when they are used; not for older files. Of a folder's tensors only
            the shapes are read.

    Returns:
        The content.

    Raises:
        ValueError: If a checksum is wrong, the file is cut short or holds code; one line.
    """
    if path.is_dir():
        from modules.common.sharded_file import load_sharded  # its imports take a second

        return load_sharded(path, lazy=mmap)
    check_sums(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise _no_checkpoint(path) from error


def check_sums(path: Path) -> None:
    """Raise a ValueError of one line if the checksums in a zip file are not those of its content.

    Args:
        path: The file; one that is no zip file passes.
    """
    facts = path.stat()
    bad = _first_damaged(path, facts.st_size, facts.st_mtime_ns)
    if bad == "":
        raise _no_checkpoint(path)
    if bad is not None:
        raise ValueError(
            f"{path} is damaged (the checksum of {bad} is wrong); pass a different file"
        )


@lru_cache(maxsize=16)  # a command asks several times, and a large file takes seconds
def _first_damaged(path: Path, size: int, mtime_ns: int) -> str | None:
    """Return the first part with a wrong checksum, "" if the archive itself is damaged."""
    with path.open("rb") as file:
        if file.read(len(ZIP)) != ZIP:
            return None
    try:
        with ZipFile(path) as archive:
            return archive.testzip()
    except Exception:  # a damaged directory of the archive can raise anything
        return ""


def _no_checkpoint(path: Path) -> ValueError:
    return ValueError(f"{path} is truncated or not a checkpoint; pass a different file")
