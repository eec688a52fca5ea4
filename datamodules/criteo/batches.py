"""Batches of prepared Criteo rows: contiguous blocks in a random order, shared by the ranks.

Letters: B rows of a batch.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from datamodules.common.sampling import epoch_order, padded_length
from datamodules.criteo.store import open_split


class Batch(TypedDict):
    """Rows of the click log."""

    dense: Tensor
    """(B, 13) int32, at least 0; the model takes the logarithm."""
    sparse: Tensor
    """(B, 26) int32, row of each embedding table."""
    label: Tensor
    """(B,) uint8, 1 for a click."""


class Block(NamedTuple):
    """Consecutive rows; rows beyond the split's end start again at row 0."""

    start: int
    num_rows: int


class BlockSampler(Sampler[Block]):
    """The order of a training epoch: global batches permuted, the rows of each kept together.

    The rows were shuffled once when they were prepared, so reading them in blocks is as random as
    the reference's order and as fast as the disk. Each rank takes its slice of the same global
    batch. The last global batch is filled with the split's first rows. Without ``shuffled`` global
    batches come in the order of the rows, whatever the seed.

    Source:
        facebookresearch/dlrm @ 6d75c84d, dlrm_data_pytorch.py, option mlperf-bin-shuffle. Differs:
        the last batch has full size, as the rules require.
    """

    def __init__(
        self,
        num_samples: int,
        global_batch_size: int,
        rank: int,
        world_size: int,
        batch_size: int,
        seed: int,
        *,
        start_batch: int = 0,
        start_epoch: int = 0,
        shuffled: bool = True,
    ) -> None:
        self.shuffled = shuffled
        self.num_samples, self.global_batch_size = num_samples, global_batch_size
        self.rank, self.world_size, self.batch_size = rank, world_size, batch_size
        self.seed, self.epoch = seed, start_epoch
        self.start_batch, self.start_epoch = start_batch, start_epoch
        self.num_blocks = padded_length(num_samples, global_batch_size) // global_batch_size
        self.per_block = global_batch_size // (batch_size * world_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration; Lightning calls this before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_blocks * self.per_block

    def __iter__(self) -> Iterator[Block]:
        """Yield this rank's blocks of the current epoch, from where a resumed run stopped."""
        order = np.arange(self.num_blocks)
        if self.shuffled:
            order = epoch_order(self.num_blocks, self.seed, self.epoch)
        first = self.start_batch if self.epoch == self.start_epoch else 0
        for batch in range(first, len(self)):
            block, part = divmod(batch, self.per_block)
            slice_number = part * self.world_size + self.rank
            start = int(order[block]) * self.global_batch_size + slice_number * self.batch_size
            yield Block(start, self.batch_size)


def evaluation_blocks(num_samples: int, batch_size: int, rank: int, world_size: int) -> list[Block]:
    """Return a rank's share of an evaluation: every row once, the same number of batches per rank.

    Ranks with sharded tables synchronise in every forward pass, so a rank whose rows are used up
    continues with empty batches.
    """
    starts = range(0, num_samples, batch_size * world_size)
    mine = (min(start + rank * batch_size, num_samples) for start in starts)
    return [Block(start, min(batch_size, num_samples - start)) for start in mine]


class CriteoBlocks(Dataset[Batch]):
    """Blocks of a prepared split; files are opened with the first block, not before."""

    def __init__(self, folder: Path, split: str) -> None:
        self._folder, self._split = folder, split
        self._files: dict[str, np.ndarray] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": None}  # another process maps the files itself

    def __getitem__(self, block: Block) -> Batch:
        if self._files is None:
            self._files = open_split(self._folder, self._split)
        columns = {name: torch.from_numpy(rows(f, block)) for name, f in self._files.items()}
        return {"dense": columns["dense"], "sparse": columns["sparse"], "label": columns["label"]}


def rows(column: np.ndarray, block: Block) -> np.ndarray:
    """Copy a block, wrapped around at the column's end."""
    stop = block.start + block.num_rows
    if stop <= len(column):
        return np.array(column[block.start : stop])
    return np.asarray(column[np.arange(block.start, stop) % len(column)])
