"""The raw LibriSpeech folder: find it, check its transcripts, list its utterances.

Layout: ``SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NNNN.flac`` and, in the same folder,
``SPEAKER-CHAPTER.trans.txt`` with one line per utterance: its id, a space, its text in capitals.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from datamodules.common.preparation import shorten

TRAIN_SUBSETS = ("train-clean-100", "train-clean-360", "train-other-500")
EVALUATION_SUBSET = "dev-clean"
SUBSETS = (*TRAIN_SUBSETS, EVALUATION_SUBSET)
SIZES = {
    "train-clean-100": "6.3 GB",
    "train-clean-360": "23 GB",
    "train-other-500": "30 GB",
    "dev-clean": "337 MB",
}
OBTAIN = "www.openslr.org/12, CC BY 4.0"
ARCHIVES = "www.openslr.org/resources/12"
ALPHABET = re.compile(r"[A-Z' ]*")
MOST_NAMED = 6


@dataclass(frozen=True)
class Utterance:
    """One recording and its transcript."""

    key: str  # SPEAKER-CHAPTER-NNNN
    path: Path  # the FLAC file
    text: str  # in lower case
    transcript: Path  # the file that the text comes from


def find_data(root: Path) -> Path:
    """Return the folder with the subsets: the root, or ``LibriSpeech`` in it.

    Raises a FileNotFoundError that says whether the root is one level too high or too low.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"data root {root} is not a directory. LibriSpeech: {OBTAIN}")
    for folder in (root, root / "LibriSpeech"):
        if _has_subset(folder):
            return folder
    if root.name in SUBSETS:
        raise FileNotFoundError(f"data root {root} is one level too low: pass {root.parent}")
    for below in sorted(path for path in root.iterdir() if path.is_dir()):
        for folder in (below, below / "LibriSpeech"):
            if _has_subset(folder):
                raise FileNotFoundError(f"data root {root} is one level too high: pass {folder}")
    raise FileNotFoundError(
        f"data root {root} contains none of {', '.join(SUBSETS)}. LibriSpeech: {OBTAIN}"
    )


def scan(folder: Path) -> tuple[dict[str, list[Utterance]], list[str]]:
    """List all utterances of all subsets by folders and transcripts; opens no recording.

    Returns utterances by subset, in the order of the sorted transcript files and of their lines;
    and one line per problem.
    """
    utterances: dict[str, list[Utterance]] = {}
    problems: list[str] = []
    seen: dict[str, Path] = {}
    for subset in SUBSETS:
        if not (folder / subset).is_dir():
            problems.append(f"{folder / subset}: missing; {_how_to_get(folder, subset)}")
            continue
        utterances[subset], lines = _scan_subset(folder / subset, seen)
        problems += lines
    return utterances, problems


def _how_to_get(folder: Path, subset: str) -> str:
    """Say how to get a missing subset; its archive contains ``LibriSpeech/SUBSET``."""
    deeper = folder / "LibriSpeech" / subset
    if deeper.is_dir():
        return f"its archive was extracted one level too deep, move {deeper} to {folder}"
    archive = f"{ARCHIVES}/{subset}.tar.gz ({SIZES[subset]})"
    if folder.name == "LibriSpeech":
        return f"extract {archive} in {folder.parent}"
    return f"extract {archive} and move its LibriSpeech/{subset} to {folder}"


def _has_subset(folder: Path) -> bool:
    return any((folder / subset).is_dir() for subset in SUBSETS)


def _scan_subset(subset: Path, seen: dict[str, Path]) -> tuple[list[Utterance], list[str]]:
    """List a subset's utterances and problems; add its keys and transcripts to ``seen``."""
    recordings: dict[str, Path] = {}
    transcripts: list[Path] = []
    for base, _, names in os.walk(subset, followlinks=True):
        for name in names:
            if name.startswith("."):  # a copy by macOS has "._NAME" next to every file
                continue
            if name.endswith(".flac"):
                recordings[name[: -len(".flac")]] = Path(base, name)
            elif name.endswith(".trans.txt"):
                transcripts.append(Path(base, name))
    if not transcripts:
        return [], [f"{subset}: no SPEAKER/CHAPTER/*.trans.txt in it; extract the archive again"]
    too_deep = [path for path in transcripts if len(path.relative_to(subset).parts) != 3]
    if too_deep:
        return [], [
            f"{subset}: {too_deep[0].relative_to(subset)} is not SPEAKER/CHAPTER/*.trans.txt; the "
            f"archive was extracted one level too deep, move its folders into {subset}"
        ]
    utterances, lines = _read_transcripts(sorted(transcripts), recordings, seen)
    mute = [f"{recordings[key]}: no transcript" for key in sorted(recordings.keys() - seen.keys())]
    return utterances, [*lines, *shorten(mute, MOST_NAMED)]


def _read_transcripts(
    transcripts: list[Path], recordings: dict[str, Path], seen: dict[str, Path]
) -> tuple[list[Utterance], list[str]]:
    """Read utterances; one line per transcript that cannot be used, a few of each kind."""
    utterances: list[Utterance] = []
    strange, silent = [], []
    twice: dict[tuple[Path, Path], str] = {}
    for path in transcripts:
        # Bytes that are not UTF-8 show up as a replacement character.
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        for key, _, text in (line.strip().partition(" ") for line in lines if line.strip()):
            if key in seen:
                text = f"{path}: {key} has a transcript in {seen[key]} too; remove the copy"
                twice.setdefault((path, seen[key]), text)
                continue
            seen[key] = path
            if not ALPHABET.fullmatch(text) or not text.strip():
                letter = next((c for c in text if not ALPHABET.fullmatch(c)), None)
                what = f"has {letter!r}, allowed are A-Z, ' and space" if letter else "is empty"
                strange.append(f"{path}: the transcript of {key} {what}")
            if key not in recordings:
                silent.append(f"{path.parent / key}.flac: missing, though it has a transcript")
                continue
            utterances.append(Utterance(key, recordings[key], text.lower().strip(), path))
    return utterances, [
        line
        for lines in (strange, silent, list(twice.values()))
        for line in shorten(lines, MOST_NAMED)
    ]
