"""Packed batches from mapped shards against plain arrays in memory, as a ratio within one run."""

import statistics
import time

import numpy as np
import pytest

from datamodules.wikipedia.batches import ShardedSamples
from datamodules.wikipedia.samples import Samples
from datamodules.wikipedia.shards import open_shard, write_shard

ROUNDS, BATCHES, BATCH_SIZE, COUNT = 9, 60, 32, 20_000


def samples() -> Samples:
    """Samples of the closed lengths with random content."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(50, 513, COUNT)
    masks = np.minimum(76, lengths // 7)
    starts, mask_starts = (np.concatenate([[0], np.cumsum(n)]) for n in (lengths, masks))
    return Samples(
        tokens=rng.integers(0, 30_522, starts[-1]),
        token_starts=starts,
        first_lengths=lengths // 2,
        positions=rng.integers(0, 50, mask_starts[-1]),
        labels=rng.integers(0, 30_522, mask_starts[-1]),
        mask_starts=mask_starts,
        random_next=rng.integers(0, 2, COUNT).astype(np.uint8),
    )


def own(path, arrays) -> ShardedSamples:
    shard = ShardedSamples([path], [COUNT])
    shard._open[0] = arrays
    return shard


def as_memmap(path, array) -> np.memmap:
    array.tofile(path)
    return np.memmap(path, array.dtype, "r")


@pytest.mark.speed
@pytest.mark.slow
def test_a_packed_batch_takes_the_time_of_one_from_memory(tmp_path):
    path = tmp_path / "train-00000.safetensors"
    write_shard(path, samples(), np.arange(10), {})
    mapped = open_shard(path)
    sources = {
        "mapped": own(path, mapped),
        "memory": own(path, {name: array.copy() for name, array in mapped.items()}),
        "subclass": own(path, {n: as_memmap(tmp_path / n, array) for n, array in mapped.items()}),
    }
    rng = np.random.default_rng(1)
    numbers = [rng.integers(0, COUNT, BATCH_SIZE).tolist() for _ in range(BATCHES)]
    rounds = []
    for number in range(ROUNDS):
        seconds = {}
        for name in (*list(sources)[number % 3 :], *list(sources)[: number % 3]):
            start = time.process_time()
            for keys in numbers:
                sources[name].__getitems__(keys)
            seconds[name] = time.process_time() - start
        rounds.append(seconds)
    ratios = {
        name: statistics.median(one["mapped"] / one[name] for one in rounds[1:])
        for name in ("memory", "subclass")
    }
    print(f"packed batch from the map: {ratios}")
    assert ratios["memory"] <= 1.05
    assert ratios["subclass"] <= 0.7
