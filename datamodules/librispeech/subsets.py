"""The subsets of LibriSpeech, or of own data in its layout: which are there, and what differs."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from datamodules.common.reading import reading, unreadable

TRAIN_SUBSETS = ("train-clean-100", "train-clean-360", "train-other-500")
EVALUATION_SUBSET = "dev-clean"
SUBSETS = (*TRAIN_SUBSETS, EVALUATION_SUBSET)
# Utterances and hours as published at www.openslr.org/12 and in its README.
UTTERANCES = dict(zip(SUBSETS, (28_539, 104_014, 148_688, 2_703), strict=True))
HOURS = dict(zip(SUBSETS, (100.6, 363.6, 496.7, 5.4), strict=True))
HOURS_TOLERANCE = 0.01  # relative; published with one decimal
SIZES = dict(zip(SUBSETS, ("6.3 GB", "23 GB", "30 GB", "337 MB"), strict=True))
OBTAIN = "www.openslr.org/12, CC BY 4.0"
ARCHIVES = "www.openslr.org/resources/12"
ALPHABET = frozenset("abcdefghijklmnopqrstuvwxyz' ")
OWN_TRAIN, OWN_EVALUATION = ("train",), ("dev", "eval", "val")


@dataclass(frozen=True)
class Subsets:
    """Names of the folders that are trained and evaluated on."""

    train: tuple[str, ...] = TRAIN_SUBSETS
    evaluation: tuple[str, ...] = (EVALUATION_SUBSET,)

    @property
    def names(self) -> tuple[str, ...]:
        return self.train + self.evaluation

    @property
    def by_split(self) -> dict[str, tuple[str, ...]]:
        return {"train": self.train, "dev": self.evaluation}


def find_data(root: Path, given: Sequence[str] = ()) -> Path:
    """Return the folder with the subsets: the root, or ``LibriSpeech`` in it.

    Raises a FileNotFoundError that says whether the root is one level too high or too low, and a
    ValueError if it cannot be read.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"data root {root} is not a directory. LibriSpeech: {OBTAIN}")
    for folder in (root, root / "LibriSpeech"):
        if folder.is_dir() and _has_subset(folder, given):
            return folder
    if root.name in SUBSETS:
        raise FileNotFoundError(f"data root {root} is one level too low: pass {root.parent}")
    below = sorted(path for path in root.iterdir() if path.is_dir())
    for folder in (place for path in below for place in (path, path / "LibriSpeech")):
        with suppress(ValueError):  # one that is not there or cannot be read is no hint
            if _has_subset(folder, given):
                found = f"data root {root} is one level too high: pass {folder}"
                raise FileNotFoundError(found)
    raise FileNotFoundError(
        f"data root {root} contains none of {', '.join(SUBSETS)}. LibriSpeech: {OBTAIN}"
    )


def choose_subsets(
    folder: Path, train: Sequence[str] | None = None, evaluation: Sequence[str] | None = None
) -> Subsets:
    """Choose what is trained and evaluated on: what is given, else LibriSpeech's, else by name.

    A folder with one of LibriSpeech's subsets is trained on those of its training subsets that are
    there. Of other folders those named ``train...`` and ``dev...``, ``eval...`` or ``val...`` are
    taken.
    """
    names = list_subsets(folder)
    if {*names} & {*SUBSETS}:
        present = tuple(name for name in TRAIN_SUBSETS if name in names)
        found = Subsets(present or TRAIN_SUBSETS)
    else:
        found = Subsets(
            tuple(name for name in names if name.startswith(OWN_TRAIN)),
            tuple(name for name in names if name.startswith(OWN_EVALUATION)),
        )
    return Subsets(tuple(train or found.train), tuple(evaluation or found.evaluation))


def list_subsets(folder: Path) -> list[str]:
    """Return the names of a folder's directories; a broken link counts as one too."""
    with reading(folder), os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() or entry.is_symlink())


def walk(folder: Path, visited: dict[str, str]) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder and all below it, links followed, with their files.

    Raises a ValueError if one cannot be read or is linked twice, also in another call with the
    same ``visited``.
    """

    def fail(error: OSError) -> None:
        raise unreadable(folder, error) from error

    for base, _, names in os.walk(folder, followlinks=True, onerror=fail):
        twin = visited.setdefault(os.path.realpath(base), base)
        if twin != base:
            raise ValueError(f"{base}: is the same directory as {twin} by a link; remove one")
        yield Path(base), names


def count_recordings(folder: Path, subsets: Subsets) -> dict[str, int]:
    """Count the FLAC files of the subsets that are there, by their names only."""
    return {
        name: sum(_is_recording(file) for _, files in walk(folder / name, {}) for file in files)
        for name in subsets.names
        if (folder / name).is_dir()
    }


def has_recordings(folder: Path, subsets: Subsets) -> bool:
    """Return whether any recording is left; once prepared none is needed."""
    folders = [folder / name for name in subsets.names if (folder / name).is_dir()]
    return any(
        _is_recording(file) for path in folders for _, files in walk(path, {}) for file in files
    )


def differences(subsets: Subsets, counts: Mapping[str, int], folder: Path) -> list[str]:
    """Return one line per difference of names and utterances from LibriSpeech's."""
    if not {*subsets.names} & {*SUBSETS} or subsets.evaluation != (EVALUATION_SUBSET,):
        train = sum(counts.get(name, 0) for name in subsets.train)
        held = sum(counts.get(name, 0) for name in subsets.evaluation)
        expected = f"{sum(UTTERANCES[name] for name in TRAIN_SUBSETS):,} and 2,703"
        return [
            f"{train:,} training utterances ({', '.join(subsets.train)}) and {held:,} evaluation "
            f"utterances ({', '.join(subsets.evaluation)}) instead of its {expected}"
        ]
    lines = [f"subset {name} is not one of its own" for name in counts if name not in SUBSETS]
    for name in SUBSETS:
        if name not in counts:
            lines.append(f"{name} is missing: {how_to_get(folder, name)}")
        elif counts[name] != UTTERANCES[name]:
            expected = f"{UTTERANCES[name]:,}"
            lines.append(f"{counts[name]:,} utterances in {name} instead of its {expected}")
    return lines


def how_to_get(folder: Path, subset: str) -> str:
    """Say how to get a missing subset; its archive contains ``LibriSpeech/SUBSET``."""
    if (folder / subset).is_dir():
        return "run the recipe's prepare command"
    deeper = folder / "LibriSpeech" / subset
    if deeper.is_dir():
        return f"its archive was extracted one level too deep, move {deeper} to {folder}"
    if subset not in SUBSETS:
        return "correct the flag, or make the directory"
    archive = f"{ARCHIVES}/{subset}.tar.gz ({SIZES[subset]})"
    if folder.name == "LibriSpeech":
        return f"extract {archive} in {folder.parent}"
    return f"extract {archive} and move its LibriSpeech/{subset} to {folder}"


def _has_subset(folder: Path, given: Sequence[str]) -> bool:
    return any(
        name in SUBSETS or name in given or name.startswith(OWN_TRAIN + OWN_EVALUATION)
        for name in list_subsets(folder)
    )


def _is_recording(name: str) -> bool:
    # A copy by macOS has "._NAME" next to every file.
    return name.endswith(".flac") and not name.startswith(".")
