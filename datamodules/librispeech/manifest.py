"""The manifest of a prepared LibriSpeech folder."""

from dataclasses import dataclass
from pathlib import Path

from datamodules.common import records
from datamodules.librispeech.flac import SAMPLE_RATE
from datamodules.librispeech.subsets import (
    ALPHABET,
    HOURS,
    HOURS_TOLERANCE,
    TRAIN_SUBSETS,
    UTTERANCES,
    Subsets,
    differences,
)

DATASET, FORMAT = "librispeech", 2
TOKENIZER = "tokenizer.model"
MOST_LETTERS = 10


@dataclass(frozen=True)
class Manifest:
    """Facts of a prepared folder; ``most_labels`` is of the longest training transcript.

    Version 0.2 and earlier noted neither the subsets nor the letters.
    """

    vocab_size: int
    num_samples: dict[str, list[int]]
    """Audio samples of every utterance, by split."""
    most_labels: int
    subsets: dict[str, dict[str, int]] | None = None
    """By split, the utterances of every subset."""
    letters: str = ""
    """All letters of the transcripts, sorted."""

    def hours(self, split: str) -> float:
        return sum(self.num_samples[split]) / SAMPLE_RATE / 3600


def read_manifest(folder: Path, vocab_size: int, *, replace: bool = False) -> Manifest | None:
    """Read the manifest of a complete prepared folder; None if it has to be prepared.

    Opens nothing else. Raises a ValueError if the folder has another vocabulary size, or was
    prepared by another version and is not to be replaced.
    """
    content = records.read_manifest(folder, DATASET, version=FORMAT, replace=replace)
    try:
        assert content is not None
        size = content["settings"]["vocab_size"]
        more = content.get("subsets"), content.get("letters", "")
        manifest = Manifest(size, content["num_samples"], content["most_labels"], *more)
        needed: dict[str, int] = dict(content["files"])
    except (AssertionError, KeyError, TypeError, ValueError):
        return None
    if size != vocab_size:
        raise ValueError(
            f"{folder} was prepared with {size} pieces, data.vocab_size is "
            f"{vocab_size}: give another directory with --data.prepared_dir"
        )
    whole = all(records.file_size(folder / name) == size for name, size in needed.items())
    return manifest if whole else None


def manifest_differences(manifest: Manifest, folder: Path) -> list[str]:
    """Return one line per difference of a prepared folder's data from LibriSpeech.

    ``folder`` is the one with the raw subsets, for hints.
    """
    if manifest.subsets is None:
        lines = _total_lines(manifest)
    else:
        train, dev = manifest.subsets["train"], manifest.subsets["dev"]
        lines = differences(Subsets(tuple(train), tuple(dev)), train | dev, folder)
    if not lines:
        expected = {"train": sum(HOURS[name] for name in TRAIN_SUBSETS), "dev": HOURS["dev-clean"]}
        lines = [
            f"{hours:.1f} hours of audio in the {split} split instead of its {expected[split]:.1f}"
            for split, hours in ((split, manifest.hours(split)) for split in expected)
            if abs(hours / expected[split] - 1) > HOURS_TOLERANCE
        ]
    if odd := sorted({*manifest.letters} - ALPHABET):
        lines.append(f"letters other than a to z and ': {' '.join(odd[:MOST_LETTERS])}")
    return lines


def _total_lines(manifest: Manifest) -> list[str]:
    train, dev = sum(UTTERANCES[name] for name in TRAIN_SUBSETS), UTTERANCES["dev-clean"]
    counts = {split: len(lengths) for split, lengths in manifest.num_samples.items()}
    return [
        f"{counts[split]:,} utterances in the {split} split instead of its {number:,}"
        for split, number in (("train", train), ("dev", dev))
        if counts[split] != number
    ]
