"""The manifest of a prepared LibriSpeech folder."""

from dataclasses import dataclass
from pathlib import Path

from datamodules.common import records

DATASET, FORMAT = "librispeech", 2
TOKENIZER = "tokenizer.model"


@dataclass(frozen=True)
class Manifest:
    """Facts of a prepared folder; ``most_labels`` is of the longest training transcript."""

    vocab_size: int
    num_samples: dict[str, list[int]]
    """Audio samples of every utterance, by split."""
    most_labels: int


def read_manifest(folder: Path, vocab_size: int, *, replace: bool = False) -> Manifest | None:
    """Read the manifest of a complete prepared folder; None if it has to be prepared.

    Opens nothing else. Raises a ValueError if the folder has another vocabulary size, or was
    prepared by another version and is not to be replaced.
    """
    content = records.read_manifest(folder, DATASET, version=FORMAT, replace=replace)
    try:
        assert content is not None
        size = content["settings"]["vocab_size"]
        manifest = Manifest(size, content["num_samples"], content["most_labels"])
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
