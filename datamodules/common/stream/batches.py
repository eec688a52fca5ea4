"""Batches out of streams, addressed by epoch and number, so that samplers and resuming work.

A loader process reads forward to the batch that it is asked for. What it hands over is a function
of the batch's address alone; what was asked for before only decides how much is read for it.
"""

import random
from collections.abc import Iterator, Sequence
from itertools import chain, count
from typing import Any, NamedTuple, Protocol

from torch.utils.data import DataLoader, Dataset

from datamodules.common.sampling import ResumableBatches
from datamodules.common.stream.opening import ShardError
from datamodules.common.stream.samples import Raw
from datamodules.common.stream.share import Share

SHUFFLE_BUFFER = 1000
_SHUFFLE_STREAM = 7  # keeps these draws apart from those of the order of shards


class BatchAddress(NamedTuple):
    """A batch of one stream."""

    epoch: int
    worker: int
    position: int


class SampleKind(Protocol):
    """A data set's conversion of raw samples; must be picklable."""

    def group(self, samples: Iterator[Raw], batches: int, rng: random.Random) -> Iterator[Any]:
        """Yield the raw samples of each batch, and decode nothing: a resumed run skips them."""

    def make(self, raw: Any, epoch: int) -> Any:
        """Return a batch of what ``group`` yielded."""


class StreamedBatches(Dataset[Any]):
    """Batches of one rank.

    Args:
        share: What this rank takes.
        kind: Groups and decodes samples.
        shuffle_buffer: Samples among which the next one is drawn; 0 keeps the order.
    """

    def __init__(self, share: Share, kind: SampleKind, shuffle_buffer: int = 0) -> None:
        share.check()
        self.share, self.kind, self.shuffle_buffer = share, kind, shuffle_buffer
        self._epoch, self._open = -1, dict[int, "_Reader"]()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_epoch": -1, "_open": {}}  # a spawned worker opens its own

    def __getitems__(self, addresses: Sequence[BatchAddress]) -> Any:
        """Return the batch of one address."""
        (address,) = addresses
        try:
            return self.kind.make(self._raw(address), address.epoch)
        except ShardError as error:
            # Of loader processes the last line is shown, after the name of the built-in error.
            raise ValueError(error.line) from error

    def _raw(self, address: BatchAddress) -> Any:
        if address.epoch != self._epoch:
            self._epoch, self._open = address.epoch, {}
        reader = self._open.get(address.worker)
        if reader is None or reader.position > address.position:
            reader = self._open[address.worker] = _Reader(self._batches(address))
        while reader.position < address.position:
            reader.take()
        return reader.take()

    def _batches(self, address: BatchAddress) -> Iterator[Any]:
        """Return all batches of a stream in an epoch."""
        share, worker, epoch = self.share, address.worker, address.epoch
        stream = share.rank * share.workers + worker
        rng = random.Random(f"{_SHUFFLE_STREAM} {share.seed} {epoch} {stream}")
        passes = count() if share.batches is not None else range(1)
        samples = chain.from_iterable(self._shuffled(epoch, worker, k, rng) for k in passes)
        return self.kind.group(samples, share.worker_batches(worker), rng)

    def _shuffled(self, epoch: int, worker: int, once: int, rng: random.Random) -> Iterator[Raw]:
        samples = self.share.samples(epoch, worker, once)
        if self.shuffle_buffer < 2:
            return samples
        from webdataset.filters import shuffle

        size = self.shuffle_buffer
        return iter(shuffle(size, initial=size, rng=rng)(samples))


class _Reader:
    def __init__(self, batches: Iterator[Any]) -> None:
        self._batches, self.position = batches, 0

    def take(self) -> Any:
        self.position += 1
        return next(self._batches)


class BatchAddresses(ResumableBatches):
    """A batch sampler of the addresses of one rank: its streams take turns, as loaders do."""

    def __init__(self, share: Share, *, start_batch: int = 0, start_epoch: int = 0) -> None:
        self._counts = [share.worker_batches(worker) for worker in range(share.workers)]
        super().__init__(start_batch=start_batch, start_epoch=start_epoch)

    def __len__(self) -> int:
        return sum(self._counts)

    def __iter__(self) -> Iterator[list[Any]]:
        epoch, workers = self.epoch, len(self._counts)
        for number in range(self.first_batch, len(self)):
            yield [BatchAddress(epoch, number % workers, number // workers)]


def streamed_loader(
    dataset: StreamedBatches,
    options: dict[str, Any],
    *,
    start_batch: int = 0,
    start_epoch: int = 0,
) -> DataLoader[Any]:
    """Return a loader of whole batches.

    Args:
        dataset: The batches.
        options: Of the data module's loaders.
        start_batch: Batches of ``start_epoch`` that are done.
        start_epoch: Epoch to start with.

    Returns:
        The loader; its length is that of a whole epoch.
    """
    addresses = BatchAddresses(dataset.share, start_batch=start_batch, start_epoch=start_epoch)
    return DataLoader(dataset, batch_sampler=addresses, **{**options, "collate_fn": _as_is})


def chunks(samples: Iterator[Raw], size: int) -> Iterator[list[Raw]]:
    """Yield lists of ``size`` samples; the last one may be shorter."""
    chunk: list[Raw] = []
    for sample in samples:
        chunk.append(sample)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _as_is(batch: Any) -> Any:
    return batch
