"""The raw LibriSpeech folder, or own data in its layout: check transcripts, list utterances.

Layout: ``SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NNNN.flac`` and, in the same folder,
``SPEAKER-CHAPTER.trans.txt`` with one line per utterance: its id, a space, its text in capitals.
Own data may have other folders, ids without dots and any alphabet.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.common.preparation import shorten
from datamodules.common.progress import stage
from datamodules.common.reading import reading
from datamodules.librispeech.subsets import (
    ALPHABET,
    SUBSETS,
    UTTERANCES,
    Subsets,
    choose_subsets,
    how_to_get,
    walk,
)

MOST_NAMED = 6


@dataclass(frozen=True)
class Utterance:
    """One recording and its transcript."""

    key: str  # SPEAKER-CHAPTER-NNNN
    path: Path  # the FLAC file
    text: str  # in lower case
    transcript: Path  # the file that the text comes from


Utterances = dict[str, list[Utterance]]


def scan(folder: Path, subsets: Subsets | None = None) -> tuple[Utterances, list[str]]:
    """List all utterances of all subsets by folders and transcripts; opens no recording.

    Returns utterances by subset, in the order of the sorted transcript files and of their lines;
    and one line per problem. A folder that cannot be read is a problem too.
    """
    chosen = subsets or choose_subsets(folder)
    utterances: Utterances = {}
    if problems := _role_problems(folder, chosen):
        return {}, problems
    seen: dict[str, Path] = {}
    visited: dict[str, str] = {}
    for subset in chosen.names:
        if not (folder / subset).is_dir():
            problems.append(f"{folder / subset}: missing; {how_to_get(folder, subset)}")
            continue
        try:
            with reading(folder / subset), stage(f"listing {subset}"):
                utterances[subset], lines = _scan_subset(folder / subset, seen, visited)
        except ValueError as error:
            lines = [str(error)]
        problems += lines
    if {name: len(some) for name, some in utterances.items()} == UTTERANCES:
        problems += _strange_letters(utterances)
    return utterances, problems


def _role_problems(folder: Path, subsets: Subsets) -> list[str]:
    """Return a line if nothing is left to train or to evaluate on, or one subset is for both."""
    lines = []
    for role, names in (("train", subsets.train), ("evaluation", subsets.evaluation)):
        if not names:
            lines.append(
                f"{folder}: no subset to use for {role}; name its directories with "
                f"--data.{role}_subsets"
            )
    if both := sorted({*subsets.train} & {*subsets.evaluation}):
        lines.append(f"{folder / both[0]}: is for training and for evaluation; choose one")
    return lines


def _strange_letters(utterances: Mapping[str, Sequence[Utterance]]) -> list[str]:
    """Name letters that LibriSpeech does not have, in data that has its counts."""
    lines = [
        f"{u.transcript}: the transcript of {u.key} has {letters[0].upper()!r}, allowed are A-Z, ' "
        "and space"
        for some in utterances.values()
        for u in some
        if (letters := sorted({*u.text} - ALPHABET))
    ]
    return shorten(lines, MOST_NAMED)


def _scan_subset(
    subset: Path, seen: dict[str, Path], visited: dict[str, str]
) -> tuple[list[Utterance], list[str]]:
    """List a subset's utterances and problems; add its keys and transcripts to ``seen``."""
    recordings: dict[str, Path] = {}
    transcripts: list[Path] = []
    copies: list[str] = []
    for base, names in walk(subset, visited):
        for name in names:
            if name.startswith("."):  # a copy by macOS has "._NAME" next to every file
                continue
            if name.endswith(".flac"):
                path = base / name
                first = recordings.setdefault(name[: -len(".flac")], path)
                if first != path:
                    copies.append(f"{path}: {first} has the same id; rename it or remove the copy")
            elif (
                name.endswith(".trans.txt") and not (base / name).is_fifo()
            ):  # to open takes forever
                transcripts.append(base / name)
    if not transcripts:
        return [], [f"{subset}: no SPEAKER/CHAPTER/*.trans.txt in it; extract the archive again"]
    too_deep = [path for path in transcripts if len(path.relative_to(subset).parts) != 3]
    if too_deep and subset.name in SUBSETS:
        return [], [
            f"{subset}: {too_deep[0].relative_to(subset)} is not SPEAKER/CHAPTER/*.trans.txt; the "
            f"archive was extracted one level too deep, move its folders into {subset}"
        ]
    utterances, lines = _read_transcripts(sorted(transcripts), recordings, seen)
    mute = [f"{recordings[key]}: no transcript" for key in sorted(recordings.keys() - seen.keys())]
    if not lines:  # a copied chapter has its transcripts twice too, which is one line
        lines = shorten(sorted(copies), MOST_NAMED)
    return utterances, [*lines, *shorten(mute, MOST_NAMED)]


def _read_transcripts(
    transcripts: list[Path], recordings: dict[str, Path], seen: dict[str, Path]
) -> tuple[list[Utterance], list[str]]:
    """Read utterances; one line per transcript that cannot be used, a few of each kind."""
    utterances: list[Utterance] = []
    strange, silent = [], []
    twice: dict[tuple[Path, Path], str] = {}
    for path in transcripts:
        content = path.read_bytes()
        if 4 * content.count(0) > len(content):
            strange.append(f"{path}: is not UTF-8 but perhaps UTF-16; save it as UTF-8 text")
            own = (key for key, place in recordings.items() if place.parent == path.parent)
            seen.update(dict.fromkeys(own, path))
            continue
        # Bytes that are not UTF-8 show up as a replacement character.
        lines = content.decode("utf-8-sig", errors="replace").splitlines()
        for key, _, text in (line.strip().partition(" ") for line in lines if line.strip()):
            if key in seen:
                text = f"{path}: {key} has a transcript in {seen[key]} too; remove the copy"
                twice.setdefault((path, seen[key]), text)
                continue
            seen[key] = path
            if what := _text_problem(key, text):
                strange.append(f"{path}: the transcript of {key} {what}")
            if key not in recordings:
                silent.append(f"{path.parent / key}.flac: missing, though it has a transcript")
                continue
            text = unicodedata.normalize("NFC", text.lower().strip())
            utterances.append(Utterance(key, recordings[key], text, path))
    return utterances, [
        line
        for lines in (strange, silent, list(twice.values()))
        for line in shorten(lines, MOST_NAMED)
    ]


def _text_problem(key: str, text: str) -> str:
    """Say what is wrong with a line of a transcript, or nothing."""
    if not text.strip():
        return "is empty"
    if "." in key:
        return "belongs to an id with a dot; rename the recording and its id"
    odd = next((c for c in text if c == "\N{REPLACEMENT CHARACTER}" or not c.isprintable()), None)
    return f"has {odd!r}; save the file as UTF-8 text" if odd else ""
