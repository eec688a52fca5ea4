"""Order of Mask R-CNN's batches: images of one orientation share a batch, epochs have one length.

The reference counts an epoch as a fixed number of iterations and starts the next permutation of the
data wherever the last one ends, so epochs and permutations do not coincide.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from datamodules.common.sampling import ResumableBatches, SampleKey, epoch_order


class AspectSampler(ResumableBatches):
    """Batches of landscape or of portrait images, one endless stream cut into epochs.

    Each pass over the data is a permutation that depends on (seed, pass) only. A rank takes one
    contiguous slice of it and fills a batch per orientation; batches come in the order of their
    first image, the last of an orientation may be smaller. An epoch is a fixed number of batches.

    Args:
        portrait: Whether each image is at least as high as wide, (images,) bool.
        batch_size: Maximum images per batch.
        batches_per_epoch: Batches per rank and epoch.
        rank: This process.
        world_size: Number of processes.
        seed: Run seed.
        start_batch: Completed batches of ``start_epoch``, which are skipped.
        start_epoch: Epoch to start with.

    Source:
        mlcommons/training (v1.0), maskrcnn_benchmark/data/samplers. Differs: a pure function of
        (seed, epoch), so that a resumed run sees the same batches.
    """

    def __init__(
        self,
        portrait: np.ndarray,
        *,
        batch_size: int,
        batches_per_epoch: int,
        rank: int,
        world_size: int,
        seed: int,
        start_batch: int = 0,
        start_epoch: int = 0,
    ) -> None:
        self.portrait, self.batch_size = portrait, batch_size
        self.batches_per_epoch = batches_per_epoch
        self.rank, self.world_size, self.seed = rank, world_size, seed
        super().__init__(start_batch=start_batch, start_epoch=start_epoch)
        self._lengths: dict[int, int] = {}
        # An epoch never needs more than two passes at a time.
        self._batches_of_pass = lru_cache(maxsize=2)(self._make_pass)

    def __len__(self) -> int:
        return self.batches_per_epoch

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """Yield this rank's batches of the current epoch; the keys' epoch is the pass."""
        first = self.epoch * self.batches_per_epoch + self.first_batch
        wanted = self.batches_per_epoch - self.first_batch
        number = 0
        while wanted > 0:
            if self._lengths.get(number, first + 1) <= first:
                first -= self._lengths[number]  # a completed pass is only counted
            else:
                batches = self._batches_of_pass(number)
                self._lengths[number] = len(batches)
                part = batches[first : first + wanted]
                yield from part
                wanted -= len(part)
                first = max(first - len(batches), 0)
            number += 1

    def _make_pass(self, number: int) -> list[list[SampleKey]]:
        """Return this rank's batches of one pass over the data."""
        order = epoch_order(len(self.portrait), self.seed, number)
        share = -(-len(order) // self.world_size)
        padded = np.resize(order, share * self.world_size)
        groups: tuple[list[list[SampleKey]], ...] = ([], [])
        batches: list[list[SampleKey]] = []
        for position in range(self.rank * share, (self.rank + 1) * share):
            index = int(padded[position])
            group = groups[int(self.portrait[index])]
            if not group or len(group[-1]) == self.batch_size:
                group.append([])
                batches.append(group[-1])
            group[-1].append(SampleKey(index, number, position // len(order)))
        return batches
