"""The layout of a data root: Mini Go's given checkpoints and games."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from datamodules.common.reading import entries

ENDING = ".tfrecord.zz"
SOURCE = "(public bucket minigo-pub, folder ml_perf/0.7)"
# checkpoint.tar.gz has the games of these models; how many each has is known as a range only.
GIVEN_MODELS = (13, 14, 15, 16, 17)
FEWEST_GIVEN, MOST_GIVEN = 9212, 9261


class Files(NamedTuple):
    """Contents of a data root."""

    checkpoint: Path
    target: Path
    games: dict[int, list[Path]]
    """Model number -> its games."""

    def newest(self, window: int) -> dict[int, list[Path]]:
        """Return the games of the last models, by model in ascending order."""
        return {model: self.games[model] for model in sorted(self.games)[-window:]}


def find_files(root: Path) -> Files:
    """Find checkpoint, target and games in an unpacked ``checkpoint.tar.gz``.

    Args:
        root: Directory with ``mlperf07/`` (or its content) and ``target.index`` with its data.

    Returns:
        Prefixes of the two checkpoints, and the games of each model.

    Raises:
        FileNotFoundError: One line per missing part.
        ValueError: If a directory cannot be read, or is a link to one that it is in; one line.
    """
    base = root / "mlperf07" if (root / "mlperf07").is_dir() else root
    lines = []
    steps = sorted((f for f in entries(base / "work_dir") if f.suffix == ".index"), key=_step_of)
    if not steps:
        lines.append(f"{base / 'work_dir'}: no checkpoint; unpack checkpoint.tar.gz here {SOURCE}")
    targets = [f for f in (root / "target.index", base / "target.index") if f.is_file()]
    if not targets:
        lines.append(
            f"{root / 'target.index'} is missing; put the three target files here {SOURCE}"
        )
    for index in (*steps[-1:], *targets[:1]):
        if len(bundle_files(index.with_suffix(""))) < 2:
            lines.append(f"{index.with_suffix('')}.data-00000-of-00001 is missing {SOURCE}")
    folders = [f for f in entries(base / "data" / "selfplay") if f.name.isdecimal()]
    games = {int(folder.name): sorted(_games_below(folder)) for folder in folders}
    if not any(games.values()):
        lines.append(f"{base / 'data' / 'selfplay'}: no games; unpack checkpoint.tar.gz {SOURCE}")
    if lines:
        raise FileNotFoundError("\n".join(lines))
    return Files(steps[-1].with_suffix(""), targets[0].with_suffix(""), games)


def bundle_files(prefix: Path) -> list[Path]:
    """Return the index and the data files of a TensorFlow checkpoint."""
    index = prefix.with_name(f"{prefix.name}.index")
    data = (f for f in entries(prefix.parent) if f.name.startswith(f"{prefix.name}.data-"))
    return [index, *data]


def unlike_the_given(games: Mapping[int, Iterable[Path]]) -> list[str]:
    """Return how a root's newest games differ from those of ``checkpoint.tar.gz``.

    Args:
        games: Games of the newest five models.

    Returns:
        One line per difference.
    """
    if tuple(games) != GIVEN_MODELS:
        found = ", ".join(map(str, games))
        return [f"games of models {found} instead of {GIVEN_MODELS[0]} to {GIVEN_MODELS[-1]}"]
    counts = {model: sum(1 for _ in of_model) for model, of_model in games.items()}
    return [
        f"model {model} has {count:,} games instead of {FEWEST_GIVEN:,} to {MOST_GIVEN:,}"
        for model, count in counts.items()
        if not FEWEST_GIVEN <= count <= MOST_GIVEN
    ]


def _games_below(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yield the games in a directory and those below it, through links too."""
    here = os.path.realpath(folder)
    if here in above:
        raise ValueError(f"{folder}: a link to a directory that it is in; remove it")
    for entry in entries(folder):
        if entry.name.endswith(ENDING):
            yield entry
        elif entry.is_dir():
            yield from _games_below(entry, above | {here})


def _step_of(index: Path) -> int:
    """Parse the global step in a checkpoint's name; -1 if there is none."""
    step = index.stem.rpartition("-")[2]
    return int(step) if step.isdecimal() else -1
