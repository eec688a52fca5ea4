"""Batches of streams: a function of their address, in worker processes and after a resume too."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datamodules.common.stream.batches import (
    BatchAddress,
    StreamedBatches,
    chunks,
    streamed_loader,
)
from datamodules.common.stream.samples import Raw
from datamodules.common.stream.share import Share
from datamodules.common.stream.sizes import ShardList
from tests.datamodules.common.stream.shard_server import numbered, serving, tar_bytes

SIZES = (6, 9, 4, 11)  # 30


class Numbers:
    """A batch is the list of its samples' numbers; every decoded one is counted."""

    def __init__(self) -> None:
        self.decoded = 0

    def group(self, samples: Iterator[Raw], batches: int, rng: random.Random) -> Iterator[Any]:
        return chunks(samples, 2)

    def make(self, raw: Any, epoch: int) -> list[tuple[int, int]]:
        self.decoded += 1
        return [(sample.number, sample.repeat) for sample in raw]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardList:
    folder, first, paths = tmp_path_factory.mktemp("shards"), 0, []
    for number, size in enumerate(SIZES):
        paths.append(str(folder / f"{number}.tar"))
        Path(paths[-1]).write_bytes(tar_bytes(numbered(first, size, 1)))
        first += size
    return ShardList(tuple(paths), SIZES, sum(SIZES), "sizes.json")


def batches(shards: ShardList, workers: int = 3, buffer: int = 8) -> StreamedBatches:
    return StreamedBatches(Share(shards, 0, 1, workers, 2, 15, seed=4), Numbers(), buffer)


def epoch_of(dataset: StreamedBatches, epoch: int = 0, start: int = 0, **options: Any) -> list[Any]:
    loader = streamed_loader(dataset, options, start_batch=start, start_epoch=epoch)
    assert len(loader) == 15  # of a whole epoch, as Lightning counts with it
    return list(loader)


def test_an_epoch_has_each_sample_once_in_another_order_every_time(shards: ShardList) -> None:
    first, second = epoch_of(batches(shards)), epoch_of(batches(shards), epoch=1)
    for epoch in (first, second):
        assert sorted(sample for batch in epoch for sample in batch) == [(n, 0) for n in range(30)]
    assert first != second
    assert first != epoch_of(batches(shards, buffer=0))


@pytest.mark.parametrize("start", [1, 7, 14])
def test_a_resumed_epoch_ends_as_the_whole_one_and_decodes_nothing_before(
    shards: ShardList, start: int
) -> None:
    whole, resumed = epoch_of(batches(shards)), batches(shards)
    assert epoch_of(resumed, start=start) == whole[start:]
    assert resumed.kind.decoded == 15 - start  # type: ignore[attr-defined]


def test_a_batch_does_not_depend_on_what_was_asked_for_before(shards: ShardList) -> None:
    dataset = batches(shards)
    once = {n: dataset.__getitems__([BatchAddress(0, n % 3, n // 3)]) for n in range(15)}
    for number in (14, 2, 2, 8, 0):
        assert dataset.__getitems__([BatchAddress(0, number % 3, number // 3)]) == once[number]
    assert dataset.__getitems__([BatchAddress(1, 0, 0)]) != once[0]


def test_a_copy_for_another_process_opens_its_own_streams(shards: ShardList) -> None:
    dataset = batches(shards)
    first = dataset.__getitems__([BatchAddress(0, 0, 0)])
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.__getitems__([BatchAddress(0, 0, 0)]) == first


@pytest.mark.slow
def test_spawned_processes_give_the_same_epochs(shards: ShardList) -> None:
    wanted = [epoch_of(batches(shards, 2), epoch) for epoch in (0, 1)]
    options = {"num_workers": 2, "persistent_workers": True, "multiprocessing_context": "spawn"}
    loader = streamed_loader(batches(shards, 2), options)
    for epoch in (0, 1):
        loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
        assert list(loader) == wanted[epoch]


def test_an_error_of_a_shard_is_one_line_of_a_built_in_error(shards: ShardList) -> None:
    files = {f"{n}.tar": Path(path).read_bytes() for n, path in enumerate(shards.addresses)}
    with serving(files) as server:
        there = ShardList(tuple(f"{server.url}/{n}" for n in files), SIZES, 30, "sizes.json")
        dataset = batches(there, workers=1, buffer=0)
        server.faults["1.tar"] = "status:404"
        with pytest.raises(ValueError, match="404") as caught:
            epoch_of(dataset)
    assert type(caught.value) is ValueError
    assert str(caught.value) == f"{server.url}/1.tar: the server answered 404 Not Found"
    assert 0 < dataset.kind.decoded < 15  # type: ignore[attr-defined]
