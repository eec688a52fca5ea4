"""Check Mini Go's given games before a run, so that damaged ones do not end it later.

``prepare`` leaves a record of every file that it has read in ``prepared_dir``: it and the doctor
notice what has changed since. A run does not need that record.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.common.preparation import Done, Preparation, Unit, preparing, units_to_redo
from datamodules.common.process_pool import processes_for
from datamodules.common.records import RawFile, changed_units, raw_file, read_manifest
from datamodules.selfplay.files import Files, bundle_files
from datamodules.selfplay.go.records import parse_game, unpack_game

DATASET, FORMAT = "minigo", 1
WORKER_BYTES = 500_000_000
# For fewer files, 2 ms each, starting a process costs more than the work.
SERIAL_FILES = 2000
UNIT_FILES = 1000
SHOWN = 20


class Checked(NamedTuple):
    """Findings of ``prepare`` in the games of a root."""

    examples: int
    copies: int
    """Games with the same content as another one."""


def check_games(
    files: Files, window: int, size: int, folder: Path, root: Path, *, show_progress: bool
) -> Checked:
    """Read the games of the newest models, or only those that are new or have changed.

    Args:
        files: Contents of the root.
        window: Number of models.
        size: Points per side of the board.
        folder: Directory of the records.
        root: The data root.
        show_progress: Draw a progress bar on standard error.

    Returns:
        What the games are, also those that were read before.

    Raises:
        ValueError: One line per bad file, at most 20; or if the directory cannot be written.
    """
    redo = units_to_redo(folder, root)
    units = _game_units(files.newest(window), size)
    num_games = sum(len(unit.item) for unit in units)
    workers = 1 if num_games < SERIAL_FILES else processes_for(len(units), WORKER_BYTES)
    with preparing(
        folder, DATASET, {}, version=FORMAT, root=root, redo=redo, show_progress=show_progress
    ) as preparation:
        _note_networks(files, preparation)
        try:
            job = partial(_read_games, size=size)
            results = preparation.run("reading games", job, units, processes=workers)
        except ValueError as error:
            raise ValueError(_shortened(str(error).splitlines(), num_games)) from error
        digests = [digest for unit in results.values() for digest in unit["digests"]]
        checked = Checked(
            sum(unit["examples"] for unit in results.values()), len(digests) - len({*digests})
        )
        preparation.finish({**checked._asdict(), "size": size})
    return checked


def changed_lines(folder: Path, root: Path) -> list[str]:
    """Return a line for each part of the given files that changed since it was prepared."""
    return [f"{line}; run prepare" for line in changed_units(folder, root).values()]


def read_check(folder: Path) -> dict[str, Any]:
    """Return ``examples``, ``copies`` and ``size`` of a prepared root, else nothing."""
    try:
        return read_manifest(folder, DATASET, version=FORMAT, keys=("copies", "size")) or {}
    except ValueError:  # another data set's or version's
        return {}


def _game_units(games: Mapping[int, Sequence[Path]], size: int) -> list[Unit]:
    """Divide each model's games into units of work."""
    units = []
    for model, of_model in games.items():
        for first in range(0, len(of_model), UNIT_FILES):
            part = of_model[first : first + UNIT_FILES]
            names = hashlib.sha256("\n".join(map(str, part)).encode()).hexdigest()[:16]
            name = f"the part of model {model} from game {first + 1} on"
            units.append(Unit(name, item=part, fingerprint=f"{size} {names}"))
    return units


def _note_networks(files: Files, preparation: Preparation) -> None:
    """Record the given networks' files, which are read at the start of a run."""
    networks = (("the starting network", files.checkpoint), ("the target", files.target))
    units = [Unit(name, item=prefix, fingerprint=str(prefix)) for name, prefix in networks]
    preparation.run("reading networks", _hash_network, units, processes=1)


def _hash_network(prefix: Path) -> Done:
    return Done(None, [raw_file(path) for path in bundle_files(prefix)])


def _read_games(files: Sequence[Path], size: int) -> Done:
    """Read some games; a ValueError has one line per bad one."""
    digests, raw, faults, examples = [], [], [], 0
    for file in files:
        try:
            content, mark = _read_game(file, size)
        except ValueError as error:
            faults.append(str(error))
            continue
        examples += content
        digests.append(mark[0])
        raw.append(mark[1])
    if faults:
        raise ValueError("\n".join(faults))
    return Done({"examples": examples, "digests": digests}, raw)


def _read_game(file: Path, size: int) -> tuple[int, tuple[str, RawFile]]:
    """Return a game's number of examples, a digest of its content and the file's record."""
    try:
        content = unpack_game(file)
        examples = len(parse_game(content, file, size).outcome)
        return examples, (hashlib.sha256(content).hexdigest()[:16], raw_file(file))
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror or error}") from error


def _shortened(faults: Sequence[str], num_games: int) -> str:
    """Return at most 20 of the lines, and one if no game can be used."""
    if len(faults) == num_games > 1:  # most likely another board size
        return f"{faults[0]}; none of the {num_games} games can be used"
    shown = list(faults[:SHOWN])
    if more := len(faults[SHOWN:]):
        shown.append(f"... and {more} more of {num_games} games")
    return "\n".join(shown)


def notes_on_unread_games(
    games: Mapping[int, Collection[Path]], window: int, per_model: int, checked: Mapping[str, Any]
) -> list[str]:
    """Return lines about the given games.

    ``window`` models with ``per_model`` games each are what an epoch trains on; ``checked`` is
    ``read_check``'s.
    """
    num_games = sum(map(len, games.values()))
    lines = []
    if not checked:
        lines.append(
            f"{num_games:,} games were counted, not read; prepare reads them, 2 ms each on one core"
        )
    if checked.get("copies"):
        lines.append(f"{checked['copies']:,} of {num_games:,} games are copies of another one")
    if len(games) < window:
        lines.append(
            f"an epoch trains on games of {window} models (data.window) but the root has games of "
            f"{len(games)}, so the first epochs train on fewer; checkpoint.tar.gz has 5"
        )
    lines += [
        f"model {model} has {len(of_model):,} games, fewer than the {per_model:,} of a generation "
        "(data.games_per_generation); the first epochs train on all of them"
        for model, of_model in games.items()
        if len(of_model) < per_model
    ]
    return lines
