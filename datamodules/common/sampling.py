"""Order, sharding and random draws of samples: equal on 1 or N ranks.

Everything here is a pure function of (seed, epoch, sample), so a resumed run and a run on another
number of devices see the same data. Trainers need ``use_distributed_sampler=False``: the samplers
shard by themselves.
"""

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import lightning as L
import numpy as np
from torch.utils.data import Sampler

# First word of every random stream, so that order and augmentation never share one.
_ORDER_STREAM, _SAMPLE_STREAM = 1, 2


class SampleKey(NamedTuple):
    """An entry of a batch sampler: the sample and the identity of its random draws.

    The epoch travels with the index because persistent workers never see ``set_epoch``.

    Attributes:
        index: Sample number in ``[0, num_samples)``.
        epoch: Epoch number, from 0.
        repeat: 0, or which repetition this is of a sample that pads the epoch.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which no key needs
    epoch: int
    repeat: int


class ResumableBatches(Sampler[list[SampleKey]]):
    """A batch sampler that starts at a given batch of a given epoch, as a resumed run needs it.

    Its length is that of a full epoch even if the first batches are skipped, because Lightning
    counts with it.

    Attributes:
        epoch: Epoch of the next iteration.
    """

    def __init__(self, *, start_batch: int, start_epoch: int) -> None:
        """Set the position to start from.

        Args:
            start_batch: Batches of ``start_epoch`` that are already done and are skipped.
            start_epoch: Epoch to start with (both from ``resume_position``).
        """
        self.start_batch, self.start_epoch = start_batch, start_epoch
        self.epoch = start_epoch

    @property
    def sampler(self) -> "ResumableBatches":
        """Itself: Lightning calls ``set_epoch`` on a batch sampler's ``sampler`` only."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration; Lightning calls this before every epoch."""
        self.epoch = epoch

    @property
    def first_batch(self) -> int:
        """Batch of this epoch to start with."""
        return self.start_batch if self.epoch == self.start_epoch else 0


class EpochSampler(ResumableBatches):
    """A batch sampler whose order depends on (seed, epoch) only and whose ranks never overlap.

    The epoch is padded to a whole number of global batches by repeating its own first entries;
    rank r takes entries r, r + R, ... of the padded order.

    Source:
        mlcommons/training_policies @ 43f67ce, training_rules.adoc (each datum once per epoch, last
        batch padded). Differs from torch's DistributedSampler, which pads to a multiple of the
        rank count only, so the last step would be smaller.
    """

    def __init__(
        self,
        num_samples: int,
        global_batch_size: int,
        rank: int,
        world_size: int,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        start_batch: int = 0,
        start_epoch: int = 0,
    ) -> None:
        """Set the sizes and the position to start from.

        Args:
            num_samples: Samples of one epoch before padding, >= 1.
            global_batch_size: Samples per optimizer step over all ranks; a multiple of
                ``batch_size * world_size`` (the factor is gradient accumulation).
            rank: This process, in ``[0, world_size)``.
            world_size: Number of processes.
            batch_size: Samples per rank and batch.
            seed: Run seed, equal on all ranks.
            shuffle: A new order every epoch; False keeps 0, 1, 2, ...
            start_batch: Batches of ``start_epoch`` that are already done and are skipped.
            start_epoch: Epoch to start with (both from ``resume_position``).

        Raises:
            ValueError: If there is no sample, or the global batch does not divide evenly.
        """
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {num_samples}")
        if batch_size < 1 or global_batch_size % (batch_size * world_size):
            raise ValueError(
                f"global_batch_size {global_batch_size} is not a multiple of batch_size x ranks "
                f"= {batch_size} x {world_size}"
            )
        self.num_samples = num_samples
        self.padded_length = padded_length(num_samples, global_batch_size)
        self.rank, self.world_size, self.batch_size = rank, world_size, batch_size
        self.seed, self.shuffle = seed, shuffle
        super().__init__(start_batch=start_batch, start_epoch=start_epoch)

    def __len__(self) -> int:
        return self.padded_length // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch = self.epoch
        order = epoch_order(self.num_samples, self.seed, epoch) if self.shuffle else None
        for batch in range(self.first_batch, len(self)):
            first = batch * self.batch_size * self.world_size + self.rank
            positions = range(first, first + self.batch_size * self.world_size, self.world_size)
            yield [self._key(order, epoch, position) for position in positions]

    def _key(self, order: np.ndarray | None, epoch: int, position: int) -> SampleKey:
        """Return the entry at one position of the padded order."""
        repeat, position = divmod(position, self.num_samples)
        return SampleKey(position if order is None else int(order[position]), epoch, repeat)


def padded_length(num_samples: int, global_batch_size: int) -> int:
    """Round ``num_samples`` up to a multiple of ``global_batch_size``."""
    return -(-num_samples // global_batch_size) * global_batch_size


def epoch_order(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    """Return an epoch's order: an int64 permutation of the samples, the same on every rank."""
    return np.random.default_rng([_ORDER_STREAM, seed, epoch]).permutation(num_samples)


def sample_rng(seed: int, epoch: int, index: int, repeat: int = 0) -> np.random.Generator:
    """Make the generator of one sample's augmentation: independent of rank, worker and history.

    Args:
        seed: Run seed, >= 0.
        epoch: Epoch number, from 0.
        index: Sample number.
        repeat: ``SampleKey.repeat``: a sample that pads the epoch gets new draws.

    Returns:
        A new generator; making it takes about 20 microseconds.
    """
    return np.random.default_rng([_SAMPLE_STREAM, seed, epoch, index, repeat])


def run_seed() -> int:
    """Return the seed set by ``lightning.seed_everything``, equal on all ranks; 0 without.

    It does not depend on torch's own generator, which differs between ranks and advances during
    training.
    """
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def ranks(trainer: L.Trainer | None) -> tuple[int, int]:
    """Return ``(rank, world_size)``; ``(0, 1)`` without a trainer."""
    return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)


def evaluation_indices(num_samples: int, trainer: L.Trainer | None) -> range:
    """Return this rank's evaluation samples: each exactly once over all ranks, no padding.

    Where the model itself is sharded (FSDP, tensor parallel) each forward pass needs all ranks, so
    every rank takes every sample and metrics drop the duplicates by index, unless the strategy has
    ``shares_evaluation``: it then gathers the weights before an evaluation.

    Args:
        num_samples: Size of the evaluation set.
        trainer: The trainer, or None for a single process.

    Returns:
        Sample numbers of this rank.
    """
    from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

    strategy = None if trainer is None else trainer.strategy
    rank, world_size = ranks(trainer)
    # Lightning passes over the evaluation, and its collectives, on a rank without a batch.
    shares = getattr(strategy, "shares_evaluation", False) and num_samples >= world_size
    if isinstance(strategy, FSDPStrategy | ModelParallelStrategy) and not shares:
        return range(num_samples)
    return range(rank, num_samples, world_size)


def resume_position(trainer: L.Trainer | None) -> tuple[int, int]:
    """Return the position to resume from: ``(0, 0)`` for a fresh run.

    Call it in ``train_dataloader``: Lightning has restored its loops by then, but has not yet
    settled the half-counted batch of a checkpoint that was written at a batch's end. Runs cannot
    resume from a checkpoint written in ``on_train_epoch_start``: Lightning loses that epoch.

    Args:
        trainer: The trainer, or None outside of one.

    Returns:
        Epoch, from 0, and how many of its batches (per rank) are done.

    Source:
        lightning 2.6.6, pytorch/loops/training_epoch_loop.py, ``update_restart_stage``: the same
        four cases.
    """
    if trainer is None:
        return 0, 0
    epochs: Any = trainer.fit_loop.epoch_progress.current
    if epochs.started == epochs.processed:  # between epochs
        return epochs.processed, 0
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress
    total = progress.total
    stepped = total.ready == total.started == total.processed == total.completed + 1
    if stepped and progress.is_last_batch:
        # Lightning counts the epoch as over and takes the iterator it has for the next one.
        return epochs.processed + 1, 0
    return epochs.processed, progress.current.completed + int(stepped)
