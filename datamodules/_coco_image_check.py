"""Check of COCO's image files before a run: damage must not show on the clock."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from datamodules._coco_ssd_images import open_rgb
from datamodules._process_pool import outcomes, processes_for

START, END = b"\xff\xd8", b"\xff\xd9"  # of a JPEG
CHUNK = 500  # files per job: opening one takes less than handing it to another process
WORKER_BYTES = 500_000_000
# Below this many files a process's start costs more than the work.
SERIAL_FILES = 5000
SHOWN = 200


def damaged_images(folder: Path, names: Sequence[str], *, show_progress: bool) -> list[str]:
    """Images that cannot be used: empty, cut short, or no image at all.

    A JPEG with both its markers in place counts as whole; its content is decoded only otherwise.

    Args:
        folder: Folder of the images.
        names: File names, all of which exist.
        show_progress: Draw a progress bar.

    Returns:
        One line per bad file, sorted; beyond 200 their number.

    Raises:
        ValueError: If a worker was killed.
    """
    chunks = [names[first : first + CHUNK] for first in range(0, len(names), CHUNK)]
    workers = 1 if len(names) < SERIAL_FILES else processes_for(len(chunks), WORKER_BYTES)
    job = partial(_problems, folder)
    title = f"checking {folder.name}"
    lines = [
        line
        for found in outcomes(job, chunks, workers, title, show_progress=show_progress)
        for line in found
    ]
    lines.sort()
    more = len(lines) - SHOWN
    return lines[:SHOWN] + ([f"{folder}: {more} more damaged images"] if more > 0 else [])


def _problems(folder: Path, names: Sequence[str]) -> list[str]:
    """One line per bad file of a chunk."""
    lines = []
    for name in names:
        try:
            _check(folder / name)
        except ValueError as error:
            lines.append(str(error))
    return lines


def _check(path: Path) -> None:
    """Refuse a damaged file with a ValueError."""
    try:
        with path.open("rb", buffering=0) as file:
            start = file.read(2)
            file.seek(-min(2, path.stat().st_size), 2)
            end = file.read(2)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); unpack it again") from None
    # Some writers put bytes behind the end, and a few files of other formats are named .jpg.
    if (start, end) != (START, END):
        open_rgb(path)
