"""Check of COCO's image files before a run, so that damaged ones do not end it later."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO

from PIL import Image, UnidentifiedImageError

from datamodules.common.process_pool import outcomes, processes_for

START, END = b"\xff\xd8", b"\xff\xd9"  # of a JPEG
CHUNK = 500  # files per job: opening one takes less time than sending it to another process
WORKER_BYTES = 500_000_000
# For fewer files, starting a process costs more than the work.
SERIAL_FILES = 5000
SHOWN = 200


def open_rgb(path: Path) -> Image.Image:
    """Decode an image to RGB; ValueError if that fails."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be decoded ({error}); unpack its archive again") from None


def unusable_images(
    folder: Path, listed: Sequence[tuple[str, tuple[int, int]]], *, show_progress: bool
) -> list[str]:
    """Return one line per unusable image: truncated, not an image, or not of the annotated size.

    A JPEG with both its markers counts as whole; it is decoded only otherwise. ``listed`` has name,
    height and width of existing files. At most 200 lines, then the number of others.
    """
    chunks = [listed[first : first + CHUNK] for first in range(0, len(listed), CHUNK)]
    workers = 1 if len(listed) < SERIAL_FILES else processes_for(len(chunks), WORKER_BYTES)
    job = partial(_problems, folder)
    title = f"checking {folder.name}"
    lines = [
        line
        for lines_of_chunk in outcomes(job, chunks, workers, title, show_progress=show_progress)
        for line in lines_of_chunk
    ]
    lines.sort()
    more = len(lines) - SHOWN
    return lines[:SHOWN] + ([f"{folder}: {more} more unusable images"] if more > 0 else [])


def _problems(folder: Path, listed: Sequence[tuple[str, tuple[int, int]]]) -> list[str]:
    """Return one line per bad file of a chunk."""
    lines = []
    for name, size in listed:
        try:
            _check(folder / name, size)
        except ValueError as error:
            lines.append(str(error))
    return lines


def _check(path: Path, size: tuple[int, int]) -> None:
    """Raise a ValueError for an unusable file."""
    try:
        with path.open("rb") as file:
            start = file.read(2)
            file.seek(-min(2, path.stat().st_size), 2)
            whole = (start, file.read(2)) == (START, END)
            file.seek(0)
            # Some writers append bytes after the end, and a few files of other formats are named
            # .jpg: only those are decoded.
            image = _open_header(path, file) if whole else open_rgb(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); unpack it again") from None
    if (image.height, image.width) != size:
        raise ValueError(
            f"{path} has {image.width} x {image.height} pixels but its annotation says {size[1]} x "
            f"{size[0]}, so its boxes would be misplaced; correct the annotation or the image"
        )


def _open_header(path: Path, file: IO[bytes]) -> Image.Image:
    """Open an image, reading only its header."""
    try:
        return Image.open(file)
    except (UnidentifiedImageError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be decoded ({error}); unpack its archive again") from None
