"""A few seconds of noise in LibriSpeech's raw layout, made in milliseconds."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.librispeech import LibriSpeechDataModule

SUBSETS = ("train-clean-100", "train-clean-360", "train-other-500", "dev-clean")
WORDS = ("ON", "A", "NOTE", "TEA", "O'ER", "NEAR", "STAR", "EAST", "NONE", "ROAST")
VOCABULARY = 20


def write_tiny(root: Path, per_subset: int = 12, *, rate: int = 16000) -> Path:
    """Write all subsets; utterance lengths 0.1 to 0.5 s, two chapters each."""
    rng = np.random.default_rng(3)
    for place, subset in enumerate(SUBSETS):
        for number in range(per_subset):
            speaker, chapter = 10 + place, 1 + number % 2
            folder = root / subset / str(speaker) / str(chapter)
            folder.mkdir(parents=True, exist_ok=True)
            key = f"{speaker}-{chapter}-{number:04d}"
            audio = rng.integers(-9000, 9000, rng.integers(1600, 8000)).astype(np.int16)
            soundfile.write(folder / f"{key}.flac", audio, rate)
            text = " ".join(rng.choice(WORDS, 1 + number % 3))
            with (folder / f"{speaker}-{chapter}.trans.txt").open("a") as file:
                file.write(f"{key} {text}\n")
    return root


def data(root, **settings):
    """Build the data module with small settings."""
    return LibriSpeechDataModule(
        root=root, **{"batch_size": 4, "vocab_size": VOCABULARY, **settings}
    )


def problem(root, **settings):
    """Return the error that preparing ends with."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        data(root, **settings).prepare_data()
    return str(caught.value)


def first_flac(root, subset="train-clean-100"):
    """Return a subset's first recording."""
    return sorted((root / subset).rglob("*.flac"))[0]
