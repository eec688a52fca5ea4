"""Order of Mask R-CNN's batches: images of one orientation share a batch, epochs have one length.

The reference counts an epoch as a fixed number of iterations and starts the next permutation of the
data wherever the last one ends, so epochs and permutations do not coincide.
"""

from collections.abc import Iterator
from functools import cache, lru_cache

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
        # An epoch never needs more than two passes at a time.
        self._positions_of_pass = lru_cache(maxsize=2)(self._own_positions)
        self._length_of_pass = cache(self._count)

    def __len__(self) -> int:
        return self.batches_per_epoch

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """Yield this rank's batches of the current epoch; the keys' epoch is the pass."""
        first = self.epoch * self.batches_per_epoch + self.first_batch
        wanted = self.batches_per_epoch - self.first_batch
        number = 0
        while wanted > 0:
            if (length := self._length_of_pass(number)) <= first:
                first -= length  # a completed pass is only counted
            else:
                yield from self._batches(number, first, first + wanted)
                wanted -= min(wanted, length - first)
                first = 0
            number += 1

    def _own_positions(self, number: int) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """Return a pass's order, and where in it this rank's landscape and portrait images are."""
        order = epoch_order(len(self.portrait), self.seed, number)
        share = -(-len(order) // self.world_size)
        positions = np.arange(self.rank * share, (self.rank + 1) * share)
        portrait = self.portrait[order[positions % len(order)]]
        return order, (positions[~portrait], positions[portrait])

    def _count(self, number: int) -> int:
        """Return the number of this rank's batches of one pass over the data."""
        # Without other ranks every pass has the same images.
        _, groups = self._positions_of_pass(number if self.world_size > 1 else 0)
        return sum(-(-len(group) // self.batch_size) for group in groups)

    def _batches(self, number: int, first: int, end: int) -> Iterator[list[SampleKey]]:
        """Yield some of this rank's batches of one pass over the data."""
        order, groups = self._positions_of_pass(number)
        starts = [np.arange(0, len(group), self.batch_size) for group in groups]
        owners = np.repeat(np.arange(len(groups)), [len(each) for each in starts])
        firsts = np.concatenate([g[each] for g, each in zip(groups, starts, strict=True)])
        start = np.concatenate(starts)
        for cut in np.argsort(firsts)[first:end]:
            batch = groups[owners[cut]][start[cut] : start[cut] + self.batch_size]
            yield [
                SampleKey(int(order[place]), number, repeat)
                for repeat, place in (divmod(int(position), len(order)) for position in batch)
            ]
