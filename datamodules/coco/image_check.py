"""COCO's image files: read as 8-bit RGB, and checked before a run so that none ends it later."""

import hashlib
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image

from datamodules.common.jpeg_header import jpeg_header
from datamodules.common.process_pool import outcomes, processes_for
from datamodules.common.records import RawFile, raw_file

START, END = b"\xff\xd8", b"\xff\xd9"  # of a JPEG
CHUNK = 500  # files per job: opening one takes less time than sending it to another process
WORKER_BYTES = 500_000_000
# For fewer files, starting a process costs more than the work.
SERIAL_FILES = 5000
SHOWN = 200
EXIF_ORIENTATION = 0x0112
TURNED = (5, 6, 7, 8)  # orientations that exchange width and height


class Checked(NamedTuple):
    """An image's name, the line that says why it is unusable, and the file as it was read."""

    name: str
    fault: str
    raw: RawFile | None


def open_rgb(path: Path) -> Image.Image:
    """Decode an image to 8-bit RGB, its EXIF orientation ignored as in COCO's annotations.

    Args:
        path: The file.

    Returns:
        The image.

    Raises:
        ValueError: One line, if it cannot be read or decoded or has no range of 8 or 16 bits.
    """
    try:
        with Image.open(path) as image:
            return _rgb(image)
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise _unusable(path, error) from None


def read_encoded(path: Path, annotated: Sequence[int]) -> tuple[bytes, int, int]:
    """Return a file as it is, its height and width: a JPEG's own, of others the annotated ones."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unusable(path, error) from None
    header = jpeg_header(data)
    height, width = header[1::-1] if header else annotated
    return data, int(height), int(width)


def decode_rgb(data: bytes) -> Image.Image:
    """Decode a file as ``open_rgb`` does; the ValueError's text follows the file's name."""
    try:
        with Image.open(BytesIO(data)) as image:
            return _rgb(image)
    except Exception as error:
        text = " ".join(str(error).split())
        raise ValueError(f"cannot be decoded ({text}); unpack its archive again") from None


def check_images(
    folder: Path,
    listed: Sequence[tuple[str, tuple[int, int]]],
    *,
    strict: bool = True,
    hashed: bool = False,
    show_progress: bool = False,
) -> list[Checked]:
    """Check images: whole, decodable and of the annotated size.

    A JPEG with both its markers counts as whole; it is decoded only otherwise.

    Args:
        folder: The image folder.
        listed: Name, height and width of existing files.
        strict: Refuse an EXIF orientation that the annotated size does not settle.
        hashed: Also read every file, to record it as it is now.
        show_progress: Draw a progress bar.

    Returns:
        One entry per image.
    """
    chunks = [listed[first : first + CHUNK] for first in range(0, len(listed), CHUNK)]
    workers = 1 if len(listed) < SERIAL_FILES else processes_for(len(chunks), WORKER_BYTES)
    job = partial(_check_chunk, folder, strict, hashed)
    title = f"checking {folder.name}"
    results = outcomes(job, chunks, workers, title, show_progress=show_progress)
    return [checked for chunk in results for checked in chunk]  # type: ignore[misc]


def fault_lines(folder: Path, checked: Sequence[Checked]) -> list[str]:
    """Return the lines of unusable images: at most 200, then the number of others."""
    lines = sorted(image.fault for image in checked if image.fault)
    more = len(lines) - SHOWN
    return lines[:SHOWN] + ([f"{folder}: {more} more unusable images"] if more > 0 else [])


def _check_chunk(
    folder: Path, strict: bool, hashed: bool, listed: Sequence[tuple[str, tuple[int, int]]]
) -> list[Checked]:
    checked = []
    for name, size in listed:
        path, fault, raw = folder / name, "", None
        try:
            with warnings.catch_warnings(action="ignore"):  # about text that some cameras write
                raw = _check(path, size, strict=strict, hashed=hashed)
        except Exception as error:
            fault = str(_unusable(path, error))
        checked.append(Checked(name, fault, raw))
    return checked


def _check(path: Path, size: tuple[int, int], *, strict: bool, hashed: bool) -> RawFile | None:
    """Raise an error for an unusable file; return its record if it is to be hashed."""
    if path.is_fifo():  # to open it could take forever
        raise ValueError("it is a pipe")
    with path.open("rb") as file:
        image = Image.open(file)
        # Some writers append bytes after the end, and a few files of other formats are named .jpg:
        # only those are decoded.
        if not _is_whole_jpeg(file):
            _rgb(image)
        _check_size(path, image.size, size, _orientation(image), strict=strict)
        if not hashed:
            return None
        file.seek(0)
        return raw_file(path, hashlib.file_digest(file, "sha256").hexdigest())


def _check_size(
    path: Path, found: tuple[int, int], size: tuple[int, int], orientation: int, *, strict: bool
) -> None:
    """Compare width and height in the file with the annotated height and width."""
    turned = "; its EXIF orientation turns it: save it upright" * (orientation in TURNED)
    if found != size[::-1]:
        raise ValueError(
            f"{path} has {found[0]} x {found[1]} pixels but its annotation says {size[1]} x "
            f"{size[0]}, so its boxes would be misplaced; correct the annotation or the "
            f"image{turned}"
        )
    settled = orientation in TURNED and size[0] != size[1]  # annotated as stored
    if strict and orientation in range(2, 9) and not settled:
        raise ValueError(
            f"{path} has EXIF orientation {orientation}, and its annotation does not tell whether "
            "its boxes follow that; save it upright"
        )


def _orientation(image: Image.Image) -> int:
    """Return 1 to 8; 1, as stored, if there is none that can be read."""
    with suppress(Exception):
        return int(image.getexif().get(EXIF_ORIENTATION, 1))
    return 1


def _is_whole_jpeg(file: IO[bytes]) -> bool:
    file.seek(0)
    start = file.read(2)
    file.seek(-2, 2)
    return (start, file.read()) == (START, END)


def _rgb(image: Image.Image) -> Image.Image:
    """Decode to 8-bit RGB; 16 bits keep the upper 8. Transparency is dropped, as in COCO."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):  # Pillow would cut them off at 255, which makes most white
        kind = {"I": "32-bit", "F": "floating-point"}[image.mode]
        raise ValueError(f"{kind} pixels have no fixed range: save it with 8 or 16 bits")
    return image.convert("RGB")


def _unusable(path: Path, error: Any) -> ValueError:
    """Return a one-line error that names the file."""
    text = " ".join(str(error).split())
    if text.startswith(str(path)):
        return ValueError(text)
    if isinstance(error, OSError) and error.strerror:
        return ValueError(f"{path} cannot be read ({error.strerror}); unpack it again")
    return ValueError(f"{path} cannot be decoded ({text}); unpack its archive again")
