"""Shards of prepared samples: one safetensors file each, mapped into memory and read by number.

Letters: B samples of a batch, T their tokens in a row without padding, M their masked positions.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.common.sampling import SampleKey
from datamodules.wikipedia.samples import Samples

DTYPES = {"U16": np.uint16, "I64": np.int64, "U8": np.uint8, "U64": np.uint64}


class PackedBatch(TypedDict):
    """Samples behind one another, so that no position is padding."""

    input_ids: Tensor
    """(T,) int64, masked."""
    segment_ids: Tensor
    """(T,) int64: 0 for [CLS] A [SEP], 1 for B [SEP]."""
    position_ids: Tensor
    """(T,) int64 from each sample's own start."""
    cu_seqlens: Tensor
    """(B + 1,) int32: where samples start, and T."""
    masked_index: Tensor
    """(M,) int64 into the T tokens."""
    masked_labels: Tensor
    """(M,) int64, the original ids there."""
    masked_samples: Tensor
    """(M,) int64 in [0, B): the sample of each masked position."""
    random_next: Tensor
    """(B,) int64: 1 where B is from another place, 0 where it follows A."""
    index: Tensor
    """(B,) int64, which samples of the data set they are."""


def write_shard(
    path: Path, samples: Samples, articles: np.ndarray, facts: Mapping[str, Any]
) -> None:
    """Write a shard; it appears whole or not at all.

    Args:
        path: File to write.
        samples: Its samples.
        articles: (articles,) uint64, a hash of each article of its text.
        facts: Kept in the file's header; JSON values.

    Raises:
        OSError: If the folder cannot be written.
    """
    from safetensors.numpy import save_file

    arrays: dict[str, np.ndarray] = {
        "tokens": samples.tokens.astype(np.uint16),
        "token_starts": samples.token_starts.astype(np.int64),
        "first_lengths": samples.first_lengths.astype(np.uint16),
        "positions": samples.positions.astype(np.uint16),
        "labels": samples.labels.astype(np.uint16),
        "mask_starts": samples.mask_starts.astype(np.int64),
        "random_next": samples.random_next.astype(np.uint8),
        "articles": articles.astype(np.uint64),
    }
    partial = path.with_suffix(f".partial-{os.getpid()}")
    try:
        partial.touch()
        mode = partial.stat().st_mode  # the library's own files are closed to everybody else
        save_file(arrays, partial, metadata={"facts": json.dumps(dict(facts))})
        partial.chmod(mode)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a shard.

    Args:
        path: The file.

    Returns:
        Header by tensor name, and where the tensors begin.

    Raises:
        ValueError: If the file is cut off or no shard.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(size, 1 << 20)))
        last = max(e["data_offsets"][1] for n, e in header.items() if n != "__metadata__")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a shard; delete it and run prepare again") from error
    if path.stat().st_size != 8 + size + last:
        raise ValueError(f"{path}: cut off; delete it and run prepare again")
    return header, 8 + size


def read_facts(path: Path) -> dict[str, Any]:
    """What the writer noted in a shard's header.

    Args:
        path: The file.

    Returns:
        The facts.

    Raises:
        ValueError: If the file is no shard.
    """
    return json.loads(read_header(path)[0]["__metadata__"]["facts"])


def open_shard(path: Path) -> dict[str, np.ndarray]:
    """Map a shard into memory.

    Args:
        path: The file.

    Returns:
        Arrays by name, read-only views of the file.

    Raises:
        ValueError: If the file is no shard.
    """
    header, start = read_header(path)
    content = np.memmap(path, np.uint8, "r", offset=0)
    arrays = {}
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = (start + offset for offset in entry["data_offsets"])
            arrays[name] = content[first:last].view(DTYPES[entry["dtype"]])
    return arrays


class ShardedSamples(Dataset[PackedBatch]):
    """Samples of several shards under one numbering, given as packed batches."""

    def __init__(self, paths: Sequence[Path], counts: Sequence[int]) -> None:
        """Note the shards; each is opened when first read, in the process that reads it.

        Args:
            paths: Shard files.
            counts: Samples of each.
        """
        self.paths = list(paths)
        self.firsts = np.concatenate([[0], np.cumsum(counts)])
        self._open: dict[int, dict[str, np.ndarray]] = {}

    def __len__(self) -> int:
        """Number of samples."""
        return int(self.firsts[-1])

    def __getstate__(self) -> dict[str, Any]:
        """Leave mapped files out: a worker maps them itself."""
        return {**self.__dict__, "_open": {}}

    def __getitem__(self, key: SampleKey | int) -> PackedBatch:
        """A batch of one sample."""
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[SampleKey | int]) -> PackedBatch:
        """A packed batch.

        Args:
            keys: Sample numbers, or the sampler's keys.

        Returns:
            The samples in this order.
        """
        indices = [key.index if isinstance(key, SampleKey) else key for key in keys]
        return pack([self._sample(index) for index in indices], indices)

    def _sample(self, index: int) -> "Sample":
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


class Sample(TypedDict):
    """One sample: uint16 arrays as ``Samples`` describes them."""

    tokens: np.ndarray
    first_length: int
    positions: np.ndarray
    labels: np.ndarray
    random_next: int


def pack(samples: Sequence[Sample], indices: Sequence[int]) -> PackedBatch:
    """Put samples behind one another.

    Args:
        samples: At least one.
        indices: Their numbers.

    Returns:
        The batch.
    """
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
        "cu_seqlens": torch.from_numpy(starts.astype(np.int32)),
        "masked_index": _long(positions_M + starts[sample_M]),
        "masked_labels": _long(np.concatenate([s["labels"] for s in samples])),
        "masked_samples": _long(sample_M),
        "random_next": torch.tensor([s["random_next"] for s in samples]),
        "index": torch.tensor(list(indices)),
    }


def _long(values: np.ndarray) -> Tensor:
    """An int64 tensor."""
    return torch.from_numpy(values.astype(np.int64))
