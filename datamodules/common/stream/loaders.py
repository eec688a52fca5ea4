"""Loaders of streamed batches for a data module."""

from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.utils.data import DataLoader

from datamodules.common.base import BenchmarkDataModule
from datamodules.common.sampling import evaluation_indices, ranks, run_seed
from datamodules.common.stream.batches import SampleKind, StreamedBatches, streamed_loader
from datamodules.common.stream.share import Share
from datamodules.common.stream.splits import StreamedSplits


def training_loader(
    datamodule: BenchmarkDataModule,
    streamed: StreamedSplits,
    kind: SampleKind,
    samples_per_epoch: int,
) -> DataLoader[Any]:
    """Return this rank's training batches, from the resume position on.

    Args:
        datamodule: Gives batch size, ranks, workers and the position to resume from.
        streamed: The shards.
        kind: Groups and decodes samples.
        samples_per_epoch: Over all ranks, whole steps.

    Returns:
        A loader whose length is that of a whole epoch.

    Raises:
        ValueError: If a shard is missing or its size is not known; one line.
    """
    rank, world_size = ranks(datamodule.trainer)
    share = Share(
        streamed.train,
        rank,
        world_size,
        max(1, datamodule.num_workers),
        datamodule.batch_size,
        batches=samples_per_epoch // (datamodule.batch_size * world_size),
        seed=run_seed(),
    )
    for line in streamed.notes():
        rank_zero_only(print)(f"Note: {line}", flush=True)
    options = datamodule.sampler_options
    start = {name: options[name] for name in ("start_batch", "start_epoch")}
    if done := start["start_batch"]:
        samples = done * datamodule.batch_size * world_size
        note = streamed.skip_note((start["start_epoch"], done), samples_per_epoch, samples)
        rank_zero_only(print)(note, flush=True)
    batches = StreamedBatches(share, kind, streamed.patterns.shuffle_buffer)
    return streamed_loader(batches, datamodule.loader_options, **start)


def evaluation_loader(
    datamodule: BenchmarkDataModule, streamed: StreamedSplits, kind: SampleKind, batch_size: int
) -> DataLoader[Any]:
    """Return this rank's evaluation batches: each sample exactly once over all ranks.

    Args:
        datamodule: Gives ranks and workers.
        streamed: The shards.
        kind: Decodes samples.
        batch_size: Samples of a batch.

    Returns:
        The loader.

    Raises:
        ValueError: If a shard is missing or its size is not known; one line.
    """
    shards = streamed.evaluation
    # (rank, ranks), or (0, 1) where every rank takes all.
    chosen = evaluation_indices(shards.total, datamodule.trainer)
    workers = max(1, datamodule.num_workers)
    share = Share(shards, chosen.start, chosen.step, workers, batch_size)
    return streamed_loader(StreamedBatches(share, kind), datamodule.loader_options)
