"""Check of Mini Go's given games before a run: damage must not show on the clock."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from datamodules.common.process_pool import outcomes, processes_for
from datamodules.selfplay.go.records import read_game

WORKER_BYTES = 500_000_000
# Below this many files a process's start costs more than the work, 2 ms each.
SERIAL_FILES = 2000
SHOWN = 20


def check_games(files: Sequence[Path], size: int, *, show_progress: bool) -> int:
    """Read games from beginning to end.

    Args:
        files: Their ``.tfrecord.zz`` files.
        size: Points per side of their board.
        show_progress: Draw a progress bar.

    Returns:
        Number of their examples.

    Raises:
        ValueError: One line per bad file, beyond 20 their number, or one line if all are bad; or
            if a worker was killed.
    """
    workers = 1 if len(files) < SERIAL_FILES else processes_for(len(files), WORKER_BYTES)
    job = partial(_num_examples, size=size)
    found = list(outcomes(job, files, workers, "reading games", show_progress=show_progress))
    faults = sorted(line for line in found if isinstance(line, str))
    if len(faults) == len(files) > 1:  # most likely of another board, all of them
        faults = [f"{faults[0]}; none of the {len(files)} games can be used"]
    if more := len(faults[SHOWN:]):
        faults[SHOWN:] = [f"... and {more} more of {len(files)} games"]
    if faults:
        raise ValueError("\n".join(faults))
    return sum(number for number in found if isinstance(number, int))


def _num_examples(file: Path, size: int) -> int:
    """Examples of one game; any fault is a ValueError."""
    try:
        return len(read_game(file, size).outcome)
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror or error}") from error


def unread(games: Mapping[int, Sequence[Path]], window: int) -> list[str]:
    """What to tell of games that were counted only.

    Args:
        games: Files of the newest models.
        window: Models that an epoch takes games of.

    Returns:
        Lines.
    """
    found = sum(map(len, games.values()))
    lines = [f"{found:,} games were counted, not read; prepare reads them, 2 ms each on one core"]
    if len(games) < window:
        lines.append(
            f"an epoch trains on games of {window} models (data.window), here are those of "
            f"{len(games)}: the first epochs train on fewer; checkpoint.tar.gz has 5"
        )
    return lines
