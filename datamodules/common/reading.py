"""Read files that others wrote: what cannot be read, and what unpacks without end, is one line.

``Path.glob`` and ``os.walk`` skip a folder that they may not read, as if it were empty; these do
not. Zip bombs are small files that unpack to more than any machine holds.
"""

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

MOST_PIXELS = 2**27
"""Of one image: twenty times a photograph's, and 400 MB as RGB."""
BLOCK = 2**20


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an error of the operating system into a ValueError of one line that names the file."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"{error.filename or path}: cannot be read ({reason})") from error


def entries(folder: Path) -> list[Path]:
    """Return what is in a folder, sorted.

    Args:
        folder: The folder, or a link to it.

    Returns:
        Its entries; hidden ones too.

    Raises:
        ValueError: If it cannot be read; one line.
    """
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


def inflate(data: bytes, most_bytes: int, path: Path) -> bytes:
    """Unpack zlib or gzip data and verify its checksum.

    Args:
        data: The whole stream, or several gzip members.
        most_bytes: Most that a sound file unpacks to.
        path: Its file, for the message.

    Returns:
        The content.

    Raises:
        ValueError: If it is damaged, truncated or larger than that; one line.
    """
    content = bytearray()
    while data:
        stream = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)  # 32: zlib or gzip by its header
        try:
            content += stream.decompress(data, most_bytes - len(content) + 1)
        except zlib.error as error:
            raise ValueError(f"{path}: damaged ({error}); fetch it again") from error
        if len(content) > most_bytes:
            raise ValueError(_too_large(path, most_bytes))
        if not stream.eof:
            raise ValueError(f"{path}: truncated; fetch it again")
        data = stream.unused_data.lstrip(b"\0")  # gzip allows zeros behind a member
    return bytes(content)


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
        self._file: IO[bytes] = gzip.GzipFile(fileobj=file, mode="rb")  # type: ignore[call-overload]
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
            raise ValueError(_too_large(self._path, self._most))
        return block


def check_pixels(width: int, height: int, path: Path | str) -> None:
    """Raise a ValueError if an image's header states more pixels than any photograph has."""
    if width * height > MOST_PIXELS:
        raise ValueError(
            f"{path}: {width} x {height} pixels, more than the {MOST_PIXELS:,} that are decoded; "
            "remove it or make it smaller"
        )


def open_image(file: Any, path: Path | str) -> Any:
    """Open a Pillow image, whose pixels are not decoded yet.

    Args:
        file: A path or an open file.
        path: Its name, for the message.

    Returns:
        The image; opening it is Pillow's check of the size, made an error at ``MOST_PIXELS``.

    Raises:
        ValueError: If it is no image or has too many pixels; one line.
    """
    import warnings

    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: {error}; remove it or make it smaller") from error
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path}: is not a readable image ({error})") from error
    check_pixels(*image.size, path)
    return image


def _too_large(path: Path, most_bytes: int) -> str:
    return (
        f"{path}: unpacks to more than {most_bytes:,} bytes, which no sound file does; "
        "fetch it again"
    )
