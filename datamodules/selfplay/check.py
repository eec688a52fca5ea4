"""Check Mini Go's given games before a run, so that damaged ones do not end it later."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from datamodules.common.process_pool import outcomes, processes_for
from datamodules.selfplay.go.records import read_game

WORKER_BYTES = 500_000_000
# For fewer files, 2 ms each, starting a process costs more than the work.
SERIAL_FILES = 2000
SHOWN = 20


def check_games(files: Sequence[Path], size: int, *, show_progress: bool) -> int:
    """Count the examples of all games; a ValueError has one line per bad file (at most 20)."""
    workers = 1 if len(files) < SERIAL_FILES else processes_for(len(files), WORKER_BYTES)
    job = partial(_num_examples, size=size)
    results = list(outcomes(job, files, workers, "reading games", show_progress=show_progress))
    faults = sorted(line for line in results if isinstance(line, str))
    if len(faults) == len(files) > 1:  # most likely another board size
        faults = [f"{faults[0]}; none of the {len(files)} games can be used"]
    if more := len(faults[SHOWN:]):
        faults[SHOWN:] = [f"... and {more} more of {len(files)} games"]
    if faults:
        raise ValueError("\n".join(faults))
    return sum(number for number in results if isinstance(number, int))


def _num_examples(file: Path, size: int) -> int:
    """Count the examples of one game; any fault is a ValueError."""
    try:
        return len(read_game(file, size).outcome)
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror or error}") from error


def notes_on_unread_games(games: Mapping[int, Sequence[Path]], window: int) -> list[str]:
    """Return lines about games that were counted, not read; ``window`` is the epoch's models."""
    num_games = sum(map(len, games.values()))
    lines = [
        f"{num_games:,} games were counted, not read; prepare reads them, 2 ms each on one core"
    ]
    if len(games) < window:
        lines.append(
            f"an epoch trains on games of {window} models (data.window) but the root has games of "
            f"{len(games)}, so the first epochs train on fewer; checkpoint.tar.gz has 5"
        )
    return lines
