"""Batches of utterances of similar length: v1.0's bucketing sampler as a function of the epoch."""

from collections.abc import Iterator

import numpy as np

from datamodules.common.sampling import ResumableBatches, SampleKey

_BUCKET_STREAM = 3  # keeps the plan's draws apart from those of datamodules.common.sampling


class BucketSampler(ResumableBatches):
    """A batch sampler over rows of utterances that lie in the same bucket of lengths.

    A row is what all ranks take in one micro-step; gradient accumulation takes consecutive rows,
    so rows of different buckets.

    Source:
        mlcommons/training @ 9947bdf2, rnn_speech_recognition/pytorch common/data/dali/sampler.py.
        Differs: each epoch's plan is a function of (seed, epoch), so that a resumed run needs no
        history; rows that do not fill an optimizer step are dropped, not moved to the next epoch.
    """

    def __init__(
        self,
        num_samples: np.ndarray,
        *,
        batch_size: int,
        rank: int,
        world_size: int,
        seed: int,
        num_buckets: int = 6,
        accumulation: int = 1,
        start_batch: int = 0,
        start_epoch: int = 0,
    ) -> None:
        """Plan over ``num_samples``, each utterance's audio samples; 1 bucket shuffles all."""
        self.order_N = np.argsort(num_samples, kind="stable")
        self.row_size, self.accumulation = batch_size * world_size, accumulation
        check_fills_a_step(len(num_samples), self.row_size, accumulation)
        self.rank, self.world_size, self.seed = rank, world_size, seed
        self.num_buckets = num_buckets
        super().__init__(start_batch=start_batch, start_epoch=start_epoch)

    def __len__(self) -> int:
        return rows_per_epoch(len(self.order_N), self.row_size, self.accumulation)

    def plan(self, epoch: int) -> np.ndarray:
        """Return an epoch's rows (rows, row size) of utterance numbers, the same on every rank."""
        rng = np.random.default_rng([_BUCKET_STREAM, self.seed, epoch])
        buckets = np.array_split(self.order_N, self.num_buckets)
        sequence = np.concatenate([rng.permutation(bucket) for bucket in buckets])
        dropped = rng.choice(len(sequence), len(sequence) % self.row_size, replace=False)
        rows = np.delete(sequence, dropped).reshape(-1, self.row_size)
        return rng.permutation(rows)[: len(self)]

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch = self.epoch
        for row in self.plan(epoch)[self.first_batch :]:
            yield [SampleKey(int(n), epoch, 0) for n in row[self.rank :: self.world_size]]


def rows_per_epoch(num_utterances: int, row_size: int, accumulation: int) -> int:
    """Return the micro-steps of an epoch: rows that fill whole optimizer steps."""
    return num_utterances // row_size // accumulation * accumulation


def check_fills_a_step(num_utterances: int, row_size: int, accumulation: int) -> None:
    """Raise a ValueError if the utterances do not fill one optimizer step."""
    if not rows_per_epoch(num_utterances, row_size, accumulation):
        raise ValueError(
            f"{num_utterances} training utterances do not fill one step of "
            f"{row_size * accumulation} (batch size x ranks x accumulation)"
        )
