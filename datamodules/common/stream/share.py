"""Which samples each rank and loader process takes, and in which batches.

The shards of an epoch, in its order, are one long sequence. Where every shard's size is known, it
is cut into one stretch per loader process, in the middle of shards too: each sample is taken once,
and no two stretches differ by more than a batch. Prepared shards are sorted by class or speaker,
so for training the sequence is one of small pieces in random order. Where only the total is known,
training gives each loader process whole shards, and in an evaluation each reads everything and
keeps every n-th sample.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import NamedTuple

import numpy as np

from datamodules.common.stream.opening import ShardError
from datamodules.common.stream.pattern import show
from datamodules.common.stream.samples import Raw, sample_name, shard_samples
from datamodules.common.stream.sizes import PIECE, ShardList

_ORDER_STREAM = 6  # keeps the order of shards apart from all other random numbers
PASSES = 1000  # repeats of one pass stay below


class Part(NamedTuple):
    """Samples of one shard: ``first`` to ``stop``, which is None at an unknown end.

    It is read from the sample ``begin`` on, which starts at the byte ``start``, to the byte
    ``end``; without an index that is the whole shard.
    """

    shard: int
    first: int
    stop: int | None
    repeat: int
    begin: int = 0
    start: int = 0
    end: int | None = None


@dataclass(frozen=True)
class Share:
    """The share of the shards that one rank takes.

    Attributes:
        shards: All shards.
        rank: Position among those that share them.
        ranks: How many share them; 1 where every rank takes all.
        workers: Streams of this rank, one per loader process.
        batch_size: Samples of a batch.
        batches: Batches of a training epoch on each rank; None for an evaluation, which takes each
            sample once.
        seed: Of the order of shards and samples.
    """

    shards: ShardList
    rank: int
    ranks: int
    workers: int
    batch_size: int
    batches: int | None = None
    seed: int = 0

    def check(self) -> None:
        """Raise a ValueError if a loader process would have no shard; one line."""
        streams, shards = self.ranks * self.workers, len(self.shards.addresses)
        if self.batches is not None and self.shards.samples is None and shards < streams:
            raise ValueError(
                f"{shards} shards of unknown sizes for {streams} loader processes ({self.ranks} "
                f"ranks x {self.workers}): lower --data.num_workers, or run the prepare command "
                "with the same flags, which counts their samples"
            )

    def worker_samples(self, worker: int) -> int:
        """Return how many samples a stream takes in an epoch."""
        if self.batches is None and self.shards.samples is None:
            return -(-(self.shards.total - self._stream(worker)) // self._streams)
        start, stop = self._stretch(worker)
        return stop - start

    def worker_batches(self, worker: int) -> int:
        return -(-self.worker_samples(worker) // self.batch_size)

    def samples(self, epoch: int, worker: int, once: int) -> Iterator[Raw]:
        """Yield the samples of a stream once, in the order of the shards.

        Args:
            epoch: Epoch number, from 0.
            worker: The stream.
            once: How often they were taken before in this epoch.

        Yields:
            The samples.

        Raises:
            ShardError: If a shard cannot be read or holds another number of samples than known.
        """
        parts = [
            part._replace(repeat=part.repeat + once * PASSES) for part in self.parts(epoch, worker)
        ]
        samples = chain.from_iterable(map(self._read, parts))
        if self.batches is None and self.shards.samples is None:
            yield from self._every_nth(samples, worker)
        else:
            yield from samples

    def parts(self, epoch: int, worker: int) -> list[Part]:
        """Return what a stream takes of each shard."""
        order = self._order(epoch)
        if self.shards.samples is None:
            mine = order if self.batches is None else order[self._stream(worker) :: self._streams]
            return [Part(shard, 0, None, 0) for shard in mine]
        stretch = self._stretch(worker)
        if self.shards.starts is None or self.batches is None:
            return _cut(order, self.shards.samples, *stretch)
        pieces = _pieces(self.shards.samples, self.shards.starts)
        order = self._shuffled(len(pieces), epoch)
        parts = _cut(order, [piece.stop - piece.first for piece in pieces], *stretch)
        return [_of_piece(pieces[part.shard], part) for part in parts]

    def _every_nth(self, samples: Iterator[Raw], worker: int) -> Iterator[Raw]:
        number, total, held = 0, self.shards.total, None
        for number, sample in enumerate(samples, 1):
            if number > total:
                break
            if (number - 1) % self._streams == self._stream(worker):
                if held is not None:
                    yield held
                held = sample  # nobody may ask for one more than the last, so that is looked for
        number += sum(1 for _ in samples)
        if number != total:
            raise ShardError(
                f"{show(self.shards.addresses[0])} and the others hold {number} samples, but "
                f"{self.shards.source} is {total}"
            )
        if held is not None:
            yield held

    def _read(self, part: Part) -> Iterator[Raw]:
        address, size = self.shards.addresses[part.shard], self._size(part.shard)
        number = part.begin
        with closing(shard_samples(address, part.start, part.end)) as samples:
            for number, (key, fields) in enumerate(samples, part.begin + 1):
                # Looked at before the last one is handed over: nobody may ask for one more.
                if part.stop == number == size and next(samples, None) is not None:
                    raise self._other_size(part.shard, "more")
                if number > part.first:
                    place = self.shards.number(part.shard, number - 1)
                    yield Raw(place, part.repeat, sample_name(address, key), fields)
                if number == part.stop:
                    return
        if part.stop is not None:
            raise self._other_size(part.shard, str(number))

    def _size(self, shard: int) -> int | None:
        return None if self.shards.samples is None else self.shards.samples[shard]

    def _other_size(self, shard: int, number: str) -> ShardError:
        return ShardError(
            f"{show(self.shards.addresses[shard])}: holds {number} samples instead of the "
            f"{self._size(shard)} in {self.shards.source}; get the whole shard, or correct that"
        )

    def _order(self, epoch: int) -> list[int]:
        number = len(self.shards.addresses)
        if self.batches is None:
            return list(range(number))
        return self._shuffled(number, epoch)

    def _shuffled(self, number: int, epoch: int) -> list[int]:
        rng = np.random.default_rng([_ORDER_STREAM, self.seed, epoch])
        return rng.permutation(number).tolist()

    @property
    def _streams(self) -> int:
        return self.ranks * self.workers

    def _stream(self, worker: int) -> int:
        return self.rank * self.workers + worker

    def _stretch(self, worker: int) -> tuple[int, int]:
        """Return where a stream begins and ends in the sequence of all samples."""
        if self.batches is not None:
            begin, end = (n * self.batches * self.batch_size for n in (self.rank, self.rank + 1))
        else:
            begin, end = (self.shards.total * n // self.ranks for n in (self.rank, self.rank + 1))
        batches = -(-(end - begin) // self.batch_size)
        # Batch b is the loader process's number b % workers.
        before = sum(-(-(batches - w) // self.workers) for w in range(worker))
        mine = -(-(batches - worker) // self.workers)
        short = batches * self.batch_size - (end - begin)  # by so much the last batch is smaller
        last = (batches - 1) % self.workers
        start = begin + before * self.batch_size - (short if worker > last else 0)
        return start, start + mine * self.batch_size - (short if worker == last else 0)


class _Piece(NamedTuple):
    """Samples ``first`` to ``stop`` of a shard, which are the bytes ``start`` to ``end``."""

    shard: int
    first: int
    stop: int
    start: int
    end: int | None


def _pieces(sizes: Sequence[int], starts: Sequence[Sequence[int]]) -> list[_Piece]:
    pieces = []
    for shard, (size, begins) in enumerate(zip(sizes, starts, strict=True)):
        ends = [*begins[1:], None]
        for first, start, end in zip(range(0, size, PIECE), begins, ends, strict=True):
            pieces.append(_Piece(shard, first, min(first + PIECE, size), start, end))
    return pieces


def _of_piece(piece: _Piece, part: Part) -> Part:
    """Return a part of a piece as one of its shard."""
    first, stop = piece.first + part.first, piece.first + (part.stop or 0)
    return Part(piece.shard, first, stop, part.repeat, piece.first, piece.start, piece.end)


def _cut(order: Sequence[int], sizes: Sequence[int], start: int, stop: int) -> list[Part]:
    """Return the parts of an endlessly repeated sequence of shards between two positions."""
    ends = [0, *accumulate(sizes[shard] for shard in order)]
    total, parts = ends[-1], []
    for repeat in range(start // total, -(-stop // total)):
        for shard, begin, end in zip(order, ends, ends[1:], strict=False):
            offset = repeat * total + begin
            first, last = max(start, offset), min(stop, repeat * total + end)
            if first < last:
                parts.append(Part(shard, first - offset, last - offset, repeat))
    return parts
