"""Tar shards whose bytes depend on their content only, written with webdataset's TarWriter."""

import hashlib
import multiprocessing
import sys
import tarfile
from collections.abc import Mapping
from types import TracebackType
from typing import IO, Any

BLOCK = tarfile.BLOCKSIZE


class TarShard:
    """A shard in the making; owner, mode and time of every member are fixed.

    Args:
        file: Open file to write to.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._digest, self.size = file, hashlib.sha256(), 0
        self._tar = _tar_writer_class()(
            self, user="", group="", mode=0o644, mtime=0, encoder=False, compress=False
        )
        # One header block per member, regardless of its name; a name above 256 bytes is an error.
        self._tar.tarstream.format = tarfile.USTAR_FORMAT

    def __enter__(self) -> "TarShard":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tar.close()

    def add(self, key: str, parts: Mapping[str, bytes]) -> dict[str, int]:
        """Append a sample; return where each part's content starts in the file."""
        offset, offsets = self._tar.tarstream.offset, {}
        for ending in sorted(parts):  # the order in which TarWriter writes them
            offsets[ending] = offset + BLOCK
            offset += BLOCK + -(-len(parts[ending]) // BLOCK) * BLOCK
        self._tar.write({"__key__": key, **parts})
        assert self._tar.tarstream.offset == offset
        return offsets

    @property
    def sha256(self) -> str:
        """Hash of all bytes once the block has ended, in hexadecimal."""
        return self._digest.hexdigest()

    def write(self, data: bytes) -> None:
        """Take bytes from TarWriter."""
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)


def _tar_writer_class() -> Any:
    # webdataset imports torch if it can, and works without. A preparation worker needs none.
    hide = multiprocessing.parent_process() is not None and "torch" not in sys.modules
    if hide:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from webdataset.writer import TarWriter
    finally:
        if hide:
            del sys.modules["torch"]
    return TarWriter
