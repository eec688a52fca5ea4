"""Order of Mask R-CNN's batches: images of one orientation share a batch, epochs are of one length.

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
        portrait: Which images are higher than wide; its length is the number of images.
        batch_size: Most images in a batch.
        batches_per_epoch: Batches of a rank in one epoch.
        rank: This process.
        world_size: Number of processes.
        seed: Run seed.
        start_batch: Batches of ``start_epoch`` that are already done and are skipped.
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
        # Two passes are all that an epoch ever needs at a time.
        self._batches_of_pass = lru_cache(maxsize=2)(self._make_pass)

    def __len__(self) -> int:
        """Batches of a full epoch."""
        return self.batches_per_epoch

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """This rank's batches of the current epoch.

        Yields:
            One batch of keys; their epoch is the pass.
        """
        first = self.epoch * self.batches_per_epoch + self.first_batch
        wanted = self.batches_per_epoch - self.first_batch
        number = 0
        while wanted > 0:
            if self._lengths.get(number, first + 1) <= first:
                first -= self._lengths[number]  # a pass that lies behind is only counted
            else:
                batches = self._batches_of_pass(number)
                self._lengths[number] = len(batches)
                part = batches[first : first + wanted]
                yield from part
                wanted -= len(part)
                first = max(first - len(batches), 0)
            number += 1

    def _make_pass(self, number: int) -> list[list[SampleKey]]:
        """All batches of this rank in one pass over the data."""
        order = epoch_order(len(self.portrait), self.seed, number)
        share = -(-len(order) // self.world_size)
        padded = np.resize(order, share * self.world_size)
        groups: tuple[list[list[SampleKey]], ...] = ([], [])
        placed: list[list[SampleKey]] = []
        for place in range(self.rank * share, (self.rank + 1) * share):
            index = int(padded[place])
            group = groups[int(self.portrait[index])]
            if not group or len(group[-1]) == self.batch_size:
                group.append([])
                placed.append(group[-1])
            group[-1].append(SampleKey(index, number, place // len(order)))
        return placed
