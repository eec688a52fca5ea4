"""Every sample once over ranks and loader processes, however badly the shards divide."""

from pathlib import Path

import pytest

from datamodules.common.stream.opening import ShardError
from datamodules.common.stream.share import PASSES, Share
from datamodules.common.stream.sizes import ShardList
from tests.datamodules.common.stream.shard_server import numbered, tar_bytes

SIZES = (5, 1, 9, 2, 7)  # 24


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder, first, paths = tmp_path_factory.mktemp("shards"), 0, []
    for number, size in enumerate(SIZES):
        paths.append(folder / f"{number}.tar")
        paths[-1].write_bytes(tar_bytes(numbered(first, size, 1)))
        first += size
    return tuple(map(str, paths))


def known(addresses: tuple[str, ...]) -> ShardList:
    return ShardList(addresses, SIZES, sum(SIZES), "sizes.json")


def unknown(addresses: tuple[str, ...], total: int = 24) -> ShardList:
    return ShardList(addresses, None, total, "--data.num_val_samples")


def taken(share: Share, epoch: int = 0) -> list[list[str]]:
    """What each loader process of one rank takes: the keys' numbers and repeats."""
    return [
        [f"{raw.fields['cls'].decode()}/{raw.repeat}" for raw in share.samples(epoch, w, 0)]
        for w in range(share.workers)
    ]


@pytest.mark.parametrize("kind", [known, unknown])
@pytest.mark.parametrize("workers", [1, 3, 7])
@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_an_evaluation_takes_each_sample_once(
    addresses: tuple[str, ...], kind: type, ranks: int, workers: int
) -> None:
    shards, seen = kind(addresses), []
    for rank in range(ranks):
        share = Share(shards, rank, ranks, workers, batch_size=2)
        mine = taken(share)
        assert [len(some) for some in mine] == [share.worker_samples(w) for w in range(workers)]
        batches = [share.worker_batches(w) for w in range(workers)]
        # As loaders take turns: the first ones have at most one batch more.
        assert batches == [-(-(sum(batches) - w) // workers) for w in range(workers)]
        seen += [sample for some in mine for sample in some]
    assert sorted(seen) == sorted(f"{n}/0" for n in range(24))


@pytest.mark.parametrize(("ranks", "workers"), [(1, 1), (2, 1), (2, 3), (3, 4)])
def test_training_takes_each_sample_once_and_pads_with_the_first_ones(
    addresses: tuple[str, ...], ranks: int, workers: int
) -> None:
    batch_size, batches = 2, -(-24 // (2 * ranks)) + 1
    orders = []
    for epoch in (0, 1):
        seen: list[str] = []
        for rank in range(ranks):
            share = Share(known(addresses), rank, ranks, workers, batch_size, batches, seed=3)
            mine = taken(share, epoch)
            assert [len(some) for some in mine] == [share.worker_samples(w) for w in range(workers)]
            seen += [sample for some in mine for sample in some]
        padding = batches * batch_size * ranks - 24
        assert len(seen) == len(set(seen)) == 24 + padding
        assert {f"{n}/0" for n in range(24)} <= set(seen)
        assert sum(sample.endswith("/1") for sample in seen) == padding
        orders.append(seen)
    assert orders[0] != orders[1]


def test_further_passes_draw_anew(addresses: tuple[str, ...]) -> None:
    share = Share(known(addresses), 0, 1, 1, 2, batches=12)
    assert {raw.repeat for raw in share.samples(0, 0, 2)} == {2 * PASSES}


def test_training_on_unknown_sizes_gives_each_process_whole_shards(
    addresses: tuple[str, ...],
) -> None:
    seen = []
    for rank in (0, 1):
        share = Share(unknown(addresses), rank, 2, 2, 2, batches=6)
        share.check()
        seen += [sample for some in taken(share) for sample in some]
    assert sorted(seen) == sorted(f"{n}/0" for n in range(24))
    with pytest.raises(ValueError, match="5 shards of unknown sizes for 6 loader processes"):
        Share(unknown(addresses), 0, 2, 3, 2, batches=6).check()
    Share(known(addresses), 0, 2, 3, 2, batches=6).check()


@pytest.mark.parametrize(
    ("sizes", "line"),
    [
        ((5, 1, 8, 2, 7), "2.tar: holds more samples instead of the 8 in sizes.json"),
        ((5, 1, 10, 2, 7), "2.tar: holds 9 samples instead of the 10 in sizes.json"),
    ],
)
@pytest.mark.parametrize("batches", [None, 12])
def test_a_shard_of_another_size_is_one_line(
    addresses: tuple[str, ...], sizes: tuple[int, ...], line: str, batches: int | None
) -> None:
    shards = ShardList(addresses, sizes, sum(sizes), "sizes.json")
    with pytest.raises(ShardError, match=line):
        taken(Share(shards, 0, 1, 1, 2, batches))


def test_a_wrong_total_is_one_line(addresses: tuple[str, ...]) -> None:
    for total in (23, 25):
        share = Share(unknown(addresses, total), 0, 1, 1, 2)
        with pytest.raises(ShardError, match=f"hold 24 samples, but .* is {total}"):
            taken(share)


def test_too_small_a_total_is_noticed_where_nobody_asks_for_more(
    addresses: tuple[str, ...],
) -> None:
    stream = iter(Share(unknown(addresses, 8), 0, 1, 1, 2).samples(0, 0, 0))
    with pytest.raises(ShardError, match="hold 24 samples, but .* is 8"):
        [next(stream) for _ in range(8)]


def test_only_the_shards_of_a_stretch_are_opened(
    addresses: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [Share(known(addresses), 0, 1, 12, 2).parts(0, worker) for worker in range(12)]
    assert all(len(some) <= 3 for some in parts)
    assert sum(len(some) for some in parts) <= len(SIZES) + 12
    assert Path(addresses[0]).is_file()
