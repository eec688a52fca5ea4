"""Opens mllog files: says why one cannot be read, and yields its lines as bytes."""

from __future__ import annotations

import codecs
import io
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

TOKEN = b":::MLLOG "
# First bytes of compressed files and archives.
PACKED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7z",
}
# No log has longer lines than this; the rest of one is skipped in pieces of this size.
LONGEST_LINE = 1 << 20


def unreadable(path: Path) -> str | None:
    """Say why a path is not a text file that ends; None if it is one, or opening it will tell."""
    try:
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            return "it is a directory"
        if not stat.S_ISREG(kind):
            return "it is not a regular file (a pipe, socket or device)"
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError:
        return None
    if head[257:262] == b"ustar":
        return "it is an archive (tar); unpack it"
    name = next((name for start, name in PACKED.items() if head.startswith(start)), None)
    return None if name is None else f"it is compressed ({name}); unpack it"


def lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield lines as bytes, UTF-16 recoded to UTF-8 and overlong lines cut."""
    head = file.read(4096)
    file.seek(0)
    encoding = wide_encoding(head)
    if encoding is None:
        while line := file.readline(LONGEST_LINE):
            yield line
        return
    for line_text in io.TextIOWrapper(file, encoding=encoding, errors="replace"):
        yield line_text.encode()


def wide_encoding(head: bytes) -> str | None:
    """Return the UTF-16 variant of a file that begins with ``head``; None for other encodings."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if head.count(0) > len(head) // 3:
        return "utf-16-le" if head[1:2] == b"\0" else "utf-16-be"
    return None


def decode(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")
