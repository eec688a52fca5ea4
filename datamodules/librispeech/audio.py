"""Utterances as samples and batches, read from the prepared shards.

Letters: B batch, N audio samples, U labels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from datamodules.common.array_file import map_arrays
from datamodules.common.sampling import SampleKey, sample_rng
from datamodules.common.shards import ShardSet
from datamodules.librispeech.manifest import DATASET, Manifest
from datamodules.librispeech.recordings import decode

_EVALUATION_STREAM = 4  # keeps evaluation seeds apart from all draws of datamodules.common.sampling


class Batch(TypedDict):
    """Utterances padded with 0 to the longest: audio_BN int16, labels_BU and the rest int64."""

    audio: Tensor
    audio_lengths: Tensor
    labels: Tensor
    label_lengths: Tensor
    seed: Tensor
    index: Tensor


class Sample(NamedTuple):
    """One utterance."""

    audio: Tensor  # int16
    labels: Tensor  # int64 ids
    seed: int  # of its augmentation and dither
    number: int  # in the manifest


class Utterances(Dataset[Sample]):
    """Utterances of one split, by number; ``numbers`` selects those that indices count, None all.

    Raises a ValueError if a table of the folder is damaged.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        manifest: Manifest,
        *,
        seed: int,
        numbers: np.ndarray | None = None,
    ) -> None:
        self.shards = ShardSet(folder, split, dataset=DATASET)
        self.num_samples = np.array(manifest.num_samples[split], np.int32)
        self._labels = folder / f"{split}-labels.npz"
        self._map_labels(verify=True)
        self.seed, self.numbers = seed, numbers

    def _map_labels(self, *, verify: bool) -> None:
        labels = _table(self._labels, verify=verify)
        self.ids, self.ends, self.keys = labels["ids"], labels["ends"], labels["keys"]

    def __getstate__(self) -> dict[str, Any]:
        # Another process maps the labels itself: 80 MB for LibriSpeech.
        return {k: v for k, v in self.__dict__.items() if k not in ("ids", "ends", "keys")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map_labels(verify=False)

    def __len__(self) -> int:
        return len(self.ends) if self.numbers is None else len(self.numbers)

    def __getitem__(self, key: SampleKey | int) -> Sample:
        """Return one utterance; its seed depends on a key's epoch, and is fixed for a number."""
        position = key.index if isinstance(key, SampleKey) else key
        number = int(position if self.numbers is None else self.numbers[position])
        draw = (key.epoch, key.repeat) if isinstance(key, SampleKey) else None
        first = int(self.ends[number - 1]) if number else 0
        labels_U = self.ids[first : int(self.ends[number])].astype(np.int64)
        return Sample(
            torch.from_numpy(self._audio(number)),
            torch.from_numpy(labels_U),
            augmentation_seed(self.seed, number, draw),
            number,
        )

    def _audio(self, number: int) -> np.ndarray:
        """Decode a recording to audio_N, int16."""
        audio_N = decode(self.shards.read(number)[0])
        if len(audio_N) != self.num_samples[number]:
            raise ValueError(
                f"{self.shards.name(number)} is damaged; delete the shard and run prepare again"
            )
        return audio_N


def augmentation_seed(seed: int, number: int, draw: tuple[int, int] | None) -> int:
    """Return the seed of an utterance's random draws.

    Args:
        seed: Run seed.
        number: Of the utterance.
        draw: Epoch and repetition of a training utterance; None in an evaluation.

    Returns:
        A number in ``[0, 2**63 - 1)``.
    """
    if draw is None:
        rng = np.random.default_rng([_EVALUATION_STREAM, seed, number])
    else:
        rng = sample_rng(seed, draw[0], number, draw[1])
    return int(rng.integers(2**63 - 1))


def collate(samples: Sequence[Sample]) -> Batch:
    """Pad samples to one batch."""
    audio = [sample.audio for sample in samples]
    labels = [sample.labels for sample in samples]
    return {
        "audio": pad_sequence(audio, batch_first=True),
        "audio_lengths": torch.tensor([len(item) for item in audio]),
        "labels": pad_sequence(labels, batch_first=True),
        "label_lengths": torch.tensor([len(item) for item in labels]),
        "seed": torch.tensor([sample.seed for sample in samples]),
        "index": torch.tensor([sample.number for sample in samples]),
    }


def batches_by_length(numbers: Sequence[int], lengths: np.ndarray, size: int) -> list[list[int]]:
    """Return batches of utterances of similar length, the longest first."""
    ordered = sorted(numbers, key=lambda number: (-int(lengths[number]), number))
    return [ordered[first : first + size] for first in range(0, len(ordered), size)]


def _table(path: Path, *, verify: bool) -> dict[str, np.ndarray]:
    """Map all arrays of a file that the preparation wrote."""
    try:
        return map_arrays(path, verify=verify)
    except (BadZipFile, EOFError, ValueError):
        raise ValueError(f"{path} is damaged; delete it and run the prepare command") from None
