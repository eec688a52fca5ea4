"""How many samples shards hold: every usual kind of index, a flag, or counted."""

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.common.stream import sizes
from datamodules.common.stream.opening import ShardError
from datamodules.common.stream.sizes import ShardList, count, sized
from tests.datamodules.common.stream.shard_server import numbered, serving, tar_bytes

INDEXES: dict[str, Any] = {
    "sizes.json": {"x-0.tar": 3, "x-1.tar": 4, "of": "other"},
    "x.json": {"shards": [{"name": "x-0.tar", "samples": 3}, {"name": "x-1.tar", "samples": 4}]},
    "index.json": {
        "__kind__": "wids-shard-index-v1",
        "shardlist": [
            {"url": "http://h/x-0.tar", "nsamples": 3},
            {"url": "x-1.tar", "nsamples": 4},
        ],
    },
    "_info.json": {
        "splits": {
            "a": {"filenames": ["x-{0..1}.tar"], "shard_lengths": [3, 4]},
            "b": {"filenames": ["y-0.tar"], "shard_lengths": [9]},
        }
    },
}


@pytest.fixture
def shards(tmp_path: Path) -> tuple[str, ...]:
    for number, samples in enumerate((3, 4)):
        (tmp_path / f"x-{number}.tar").write_bytes(tar_bytes(numbered(10 * number, samples)))
    return tuple(str(tmp_path / f"x-{number}.tar") for number in (0, 1))


def sized_of(addresses: tuple[str, ...], given: int | None = None) -> ShardList:
    return sized(addresses, given, flag="data.num_train_samples", prepared_dir=None)


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_beside_the_shards_is_used(shards: tuple[str, ...], name: str) -> None:
    Path(shards[0]).with_name(name).write_text(json.dumps(INDEXES[name]))
    found = sized_of(shards, 7)
    assert (found.samples, found.total) == ((3, 4), 7)
    assert [found.number(1, 2), found.name(5)] == [5, "x-1.tar:2"]
    with pytest.raises(ValueError, match=f"is 8, but .*{name} counts 7 samples"):
        sized_of(shards, 8)


def test_each_directory_has_its_own_index() -> None:
    files = {"a/sizes.json": b'{"0.tar": 3}', "b/sizes.json": b'{"0.tar": 5}'}
    with serving(files) as server:
        assert sized_of((f"{server.url}/a/0.tar", f"{server.url}/b/0.tar")).samples == (3, 5)


def test_without_an_index_one_line_says_what_to_do(shards: tuple[str, ...]) -> None:
    with pytest.raises(sizes.UnknownSizesError) as caught:
        sized_of(shards)
    for part in (shards[0], "sizes.json", "--data.num_train_samples N", "prepare command"):
        assert part in str(caught.value)
    only_total = sized_of(shards, 7)
    assert (only_total.samples, only_total.total) == (None, 7)
    assert only_total.number(1, 2) != only_total.number(0, 2)
    assert only_total.name(only_total.number(1, 2)) == "x-1.tar:2"


def test_counted_shards_are_known_from_then_on(
    shards: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINISHLINE_CACHE", str(tmp_path / "cache"))
    path = count(shards, None)
    assert path.is_relative_to(tmp_path / "cache")
    assert sized_of(shards).samples == (3, 4)
    assert sized(shards[:1], 3, flag="f", prepared_dir=None).samples is None  # another list


def test_a_damaged_list_is_named_and_another_programs_file_passed_over(
    shards: tuple[str, ...],
) -> None:
    folder = Path(shards[0]).parent
    (folder / "index.json").write_text('["of a web page"]')
    with pytest.raises(sizes.UnknownSizesError):
        sized_of(shards)
    for content in ('{"x-0.tar": 0}', "{", "[1]"):
        (folder / "sizes.json").write_text(content)
        with pytest.raises(ShardError, match="sizes.json: is not a list of sizes"):
            sized_of(shards)


def test_moved_shards_have_the_same_digest_and_other_sizes_another() -> None:
    one = ShardList(("/a/0.tar", "/a/1.tar"), (3, 4), 7, "")
    assert one.digest() == ShardList(("http://h/0.tar", "http://h/1.tar"), (3, 4), 7, "").digest()
    assert one.digest() != ShardList(one.addresses, (4, 3), 7, "").digest()
