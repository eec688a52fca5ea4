"""Batches of prepared samples, concatenated without padding.

Letters: B samples of a batch, T their concatenated tokens, M their masked positions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.common.sampling import SampleKey
from datamodules.wikipedia.shards import open_shard


class PackedBatch(TypedDict):
    """Concatenated samples, without padding."""

    input_ids: Tensor
    """(T,) int64, masked."""
    segment_ids: Tensor
    """(T,) int64: 0 for [CLS] A [SEP], 1 for B [SEP]."""
    position_ids: Tensor
    """(T,) int64 from each sample's own start."""
    cu_seqlens: Tensor
    """(B + 1,) int32: offset of each sample, and T."""
    masked_index: Tensor
    """(M,) int64 into the T tokens."""
    masked_labels: Tensor
    """(M,) int64, the original ids there."""
    masked_samples: Tensor
    """(M,) int64 in [0, B): the sample of each masked position."""
    random_next: Tensor
    """(B,) int64: 1 if segment B is from another article, 0 if it follows A."""
    index: Tensor
    """(B,) int64, numbers of the samples in the data set."""


class Sample(TypedDict):
    """One sample: uint16 arrays, see ``Samples``."""

    tokens: np.ndarray
    first_length: int
    positions: np.ndarray
    labels: np.ndarray
    random_next: int


class ShardedSamples(Dataset[PackedBatch]):
    """Samples of several shards under one numbering, returned as packed batches."""

    def __init__(self, paths: Sequence[Path], counts: Sequence[int]) -> None:
        self.paths = list(paths)
        self.firsts = np.concatenate([[0], np.cumsum(counts)])
        self._open: dict[int, dict[str, np.ndarray]] = {}

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def __getstate__(self) -> dict[str, Any]:
        """Drop mapped files: each worker maps them itself."""
        return {**self.__dict__, "_open": {}}

    def __getitem__(self, key: SampleKey | int) -> PackedBatch:
        """Return a batch of one sample."""
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[SampleKey | int]) -> PackedBatch:
        """Return a packed batch of samples, by number or the sampler's keys."""
        indices = [key.index if isinstance(key, SampleKey) else key for key in keys]
        return pack([self._sample(index) for index in indices], indices)

    def _sample(self, index: int) -> Sample:
        shard = int(np.searchsorted(self.firsts, index, side="right")) - 1
        if shard not in self._open:
            self._open[shard] = open_shard(self.paths[shard])
        arrays, n = self._open[shard], index - int(self.firsts[shard])
        a, b = arrays["token_starts"][n : n + 2]
        c, d = arrays["mask_starts"][n : n + 2]
        return Sample(
            tokens=arrays["tokens"][a:b],
            first_length=int(arrays["first_lengths"][n]),
            positions=arrays["positions"][c:d],
            labels=arrays["labels"][c:d],
            random_next=int(arrays["random_next"][n]),
        )


def pack(samples: Sequence[Sample], indices: Sequence[int]) -> PackedBatch:
    """Concatenate samples, at least one, into a batch; ``indices`` are their numbers."""
    lengths = np.array([s["tokens"].size for s in samples])
    masks = np.array([s["positions"].size for s in samples])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    own_start_T = np.repeat(starts[:-1], lengths)
    position_T = np.arange(starts[-1]) - own_start_T
    first_T = np.repeat([s["first_length"] for s in samples], lengths)
    sample_M = np.repeat(np.arange(len(samples)), masks)
    positions_M = np.concatenate([s["positions"] for s in samples]).astype(np.int64)
    return {
        "input_ids": _long(np.concatenate([s["tokens"] for s in samples])),
        "segment_ids": _long(position_T >= first_T),
        "position_ids": _long(position_T),
        # int32, as flash attention wants it.
        "cu_seqlens": torch.from_numpy(starts.astype(np.int32)),
        "masked_index": _long(positions_M + starts[sample_M]),
        "masked_labels": _long(np.concatenate([s["labels"] for s in samples])),
        "masked_samples": _long(sample_M),
        "random_next": torch.tensor([s["random_next"] for s in samples]),
        "index": torch.tensor(list(indices)),
    }


def _long(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.int64))
