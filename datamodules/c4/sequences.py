"""Samples of S + 1 tokens: the first S are the input, the last S the labels."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.c4.indexed import Pair, map_lengths, map_offsets, map_tokens
from datamodules.c4.order import Order, make_order, map_order, order_name
from datamodules.common.sampling import SampleKey


class Stream(NamedTuple):
    """A split's files and what the manifest says of them."""

    pair: Pair
    dtype: str
    documents: int
    tokens: int
    index_hash: str


class _Mapped(Dataset[torch.Tensor]):
    """Maps its files on first use, in whichever process that is: maps are never pickled."""

    def __init__(self) -> None:
        self._maps: dict[Any, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}


class ShuffledSequences(_Mapped):
    """Training samples by their place in an epoch's order.

    Args:
        stream: The training split.
        seq_length: S.
        seed: Run seed.
        orders: Folder for the orders of documents and samples.
    """

    def __init__(self, stream: Stream, seq_length: int, seed: int, orders: Path) -> None:
        super().__init__()
        self._stream, self._length, self._seed, self._orders = stream, seq_length, seed, orders

    def __getitem__(self, key: SampleKey) -> torch.Tensor:
        """Return (S + 1,) int64 tokens; they may run over several documents."""
        order = self.order(key.epoch)
        stretch = order.samples[key.index]
        return self._read(order, int(order.places[stretch]), int(order.offsets[stretch]))

    def order(self, epoch: int) -> Order:
        """Map an epoch's order, which is made if it is not there yet."""
        if epoch not in self._maps:
            stream = self._stream
            name = order_name(stream.index_hash, self._length, self._seed, epoch)
            lengths = map_lengths(stream.pair.idx, stream.documents)
            make = lambda: make_order(lengths, self._length, self._seed, epoch)  # noqa: E731
            self._maps[epoch] = map_order(self._orders, name, make)
        return self._maps[epoch]

    def _read(self, order: Order, place: int, offset: int) -> torch.Tensor:
        tokens, lengths, offsets = self._files()
        out = np.empty(self._length + 1, np.int64)
        done = 0
        while done < out.size:
            document = order.documents[place]
            first = int(offsets[document]) // tokens.itemsize + offset
            count = min(out.size - done, int(lengths[document]) - offset)
            out[done : done + count] = tokens[first : first + count]
            done, place, offset = done + count, place + 1, 0
        return torch.from_numpy(out)

    def _files(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if "files" not in self._maps:
            (bin_path, idx_path), count = self._stream.pair, self._stream.documents
            tokens = map_tokens(bin_path, self._stream.dtype)
            maps = tokens, map_lengths(idx_path, count), map_offsets(idx_path, count)
            self._maps["files"] = maps
        return self._maps["files"]


class SequencesInOrder(_Mapped):
    """Evaluation samples: sample i is the tokens from i * S of the file."""

    def __init__(self, stream: Stream, seq_length: int) -> None:
        super().__init__()
        self._stream, self._length = stream, seq_length

    def __getitem__(self, number: int) -> torch.Tensor:
        """Return (S + 1,) int64 tokens."""
        if "tokens" not in self._maps:
            self._maps["tokens"] = map_tokens(self._stream.pair.bin, self._stream.dtype)
        first = number * self._length
        part = self._maps["tokens"][first : first + self._length + 1]
        return torch.from_numpy(part.astype(np.int64))
