"""Writes one uncompressed tar file whose bytes depend on its content only."""

import hashlib
import os
import tarfile
from pathlib import Path
from types import TracebackType

BLOCK = tarfile.BLOCKSIZE


class TarShard:
    """A tar file in the making; it takes its name when the block ends without an error.

    Owner, mode and time of every member are fixed, so the same samples give the same hash.

    Args:
        target: The file wanted.

    Raises:
        OSError: If the folder cannot be written.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self._partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
        self._file = self._partial.open("wb")
        self._digest = hashlib.sha256()
        self._dropped = False
        self.size = 0

    def __enter__(self) -> "TarShard":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None or self._dropped:
            self._file.close()
            self._partial.unlink(missing_ok=True)
            return
        self._write(b"\0" * (2 * BLOCK))  # the end mark of the format
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._partial.replace(self.target)

    def add(self, name: str, data: bytes) -> int:
        """Append one member.

        Args:
            name: Its name, at most 100 bytes.
            data: Its content.

        Returns:
            Where the content starts, in bytes from the start of the file.
        """
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._write(member.tobuf(tarfile.USTAR_FORMAT))
        offset = self.size
        self._write(data)
        self._write(b"\0" * (-len(data) % BLOCK))
        return offset

    def drop(self) -> None:
        """Let the block end without a file."""
        self._dropped = True

    @property
    def sha256(self) -> str:
        """Hash of all bytes written so far, in hexadecimal."""
        return self._digest.hexdigest()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)
