"""Check of COCO's image files before a run: damage must not show on the clock."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO

from PIL import Image, UnidentifiedImageError

from datamodules.coco.ssd_images import open_rgb
from datamodules.common.process_pool import outcomes, processes_for

START, END = b"\xff\xd8", b"\xff\xd9"  # of a JPEG
CHUNK = 500  # files per job: opening one takes less than handing it to another process
WORKER_BYTES = 500_000_000
# Below this many files a process's start costs more than the work.
SERIAL_FILES = 5000
SHOWN = 200


def unusable_images(
    folder: Path, listed: Sequence[tuple[str, tuple[int, int]]], *, show_progress: bool
) -> list[str]:
    """Images that cannot be used: cut short, no image at all, or not of the annotated size.

    A JPEG with both its markers in place counts as whole; its content is decoded only otherwise.

    Args:
        folder: Folder of the images.
        listed: Name, and height and width in the annotations, of files all of which exist.
        show_progress: Draw a progress bar.

    Returns:
        One line per bad file, sorted; beyond 200 their number.

    Raises:
        ValueError: If a worker was killed.
    """
    chunks = [listed[first : first + CHUNK] for first in range(0, len(listed), CHUNK)]
    workers = 1 if len(listed) < SERIAL_FILES else processes_for(len(chunks), WORKER_BYTES)
    job = partial(_problems, folder)
    title = f"checking {folder.name}"
    lines = [
        line
        for found in outcomes(job, chunks, workers, title, show_progress=show_progress)
        for line in found
    ]
    lines.sort()
    more = len(lines) - SHOWN
    return lines[:SHOWN] + ([f"{folder}: {more} more unusable images"] if more > 0 else [])


def _problems(folder: Path, listed: Sequence[tuple[str, tuple[int, int]]]) -> list[str]:
    """One line per bad file of a chunk."""
    lines = []
    for name, size in listed:
        try:
            _check(folder / name, size)
        except ValueError as error:
            lines.append(str(error))
    return lines


def _check(path: Path, size: tuple[int, int]) -> None:
    """Refuse an unusable file with a ValueError."""
    try:
        with path.open("rb") as file:
            start = file.read(2)
            file.seek(-min(2, path.stat().st_size), 2)
            whole = (start, file.read(2)) == (START, END)
            file.seek(0)
            # Some writers put bytes behind the end, and a few files of other formats are named
            # .jpg: only then the pixels are decoded.
            image = _opened(path, file) if whole else open_rgb(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); unpack it again") from None
    if (image.height, image.width) != size:
        raise ValueError(
            f"{path} has {image.width} x {image.height} pixels, its annotation says {size[1]} x "
            f"{size[0]}: its boxes would lie elsewhere; correct the annotation or the image"
        )


def _opened(path: Path, file: IO[bytes]) -> Image.Image:
    """An image of which only the header is read."""
    try:
        return Image.open(file)
    except (UnidentifiedImageError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be decoded ({error}); unpack its archive again") from None
