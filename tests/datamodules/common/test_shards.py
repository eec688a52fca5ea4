"""Tar shards: read by webdataset, addressed by number, restartable, and plain about damage."""

from __future__ import annotations

import json
import pickle
from functools import partial
from pathlib import Path

import pytest

from datamodules.common import shards as sharding
from datamodules.common.shards import Plan, ShardSet, damaged_shards, read_manifest, write_shards

KEYS = [f"n{number:03d}" for number in range(10)]
PLAN = Plan("toy", "train", ("jpg", "cls"), KEYS, samples_per_shard=4, facts={"side": 7})


def load(number: int) -> tuple[bytes, bytes]:
    return bytes([number]) * (700 + 13 * number), str(number % 3).encode()


def load_but(bad: int, number: int) -> tuple[bytes, bytes]:
    if number == bad:
        raise ValueError(f"sample {number} is broken")
    return load(number)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_shards(tmp_path, PLAN, load, processes=1)
    return tmp_path


def test_read_by_number_gives_the_bytes_written(shards: Path) -> None:
    split = ShardSet(shards, "train", dataset="toy")
    assert len(split) == 10
    for number in (9, 0, 4, 3, 7):
        assert split.read(number) == load(number)
    assert split.name(5).endswith("train-00001.tar: n005.jpg")
    assert split.manifest["facts"] == {"side": 7}
    assert damaged_shards(shards, "train", "toy", processes=1) == {}


def test_webdataset_reads_the_same_samples(shards: Path) -> None:
    import webdataset as wds

    files = [str(path) for path in sorted(shards.glob("train-*.tar"))]
    samples = list(wds.WebDataset(files, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == KEYS
    assert [(sample["jpg"], sample["cls"]) for sample in samples] == [load(i) for i in range(10)]


def test_parallel_writers_give_the_same_bytes(shards: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_shards(other, PLAN, load, processes=2)
    assert read_manifest(other, "train", "toy") == read_manifest(shards, "train", "toy")


def test_pickled_set_reads_in_another_process(shards: Path) -> None:
    split = ShardSet(shards, "train", dataset="toy")
    split.read(0)
    assert pickle.loads(pickle.dumps(split)).read(9) == load(9)


def test_more_shards_than_open_files_are_read(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "OPEN_SHARDS", 1)
    split = ShardSet(shards, "train", dataset="toy")
    assert [split.read(i)[1] for i in (0, 9, 1, 5)] == [load(i)[1] for i in (0, 9, 1, 5)]


def test_interrupted_writing_keeps_finished_shards(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^sample 5 is broken$"):
        write_shards(tmp_path, PLAN, partial(load_but, 5), processes=1)
    with pytest.raises(ValueError, match="not finished"):
        ShardSet(tmp_path, "train", dataset="toy")
    before = (tmp_path / "train-00000.tar").stat().st_mtime_ns
    write_shards(tmp_path, PLAN, load, processes=1)
    assert (tmp_path / "train-00000.tar").stat().st_mtime_ns == before
    assert ShardSet(tmp_path, "train", dataset="toy").read(5) == load(5)
    assert not list(tmp_path.glob(".train*"))


def test_beginnings_of_a_killed_process_do_not_stay(tmp_path: Path) -> None:
    (tmp_path / ".train-00001.tar.partial-4711").write_bytes(b"x" * 1000)
    write_shards(tmp_path, PLAN, load, processes=1)
    assert not list(tmp_path.glob(".*"))


def test_truncated_and_missing_shards_get_one_line_with_a_count(shards: Path) -> None:
    path = shards / "train-00001.tar"
    path.write_bytes(path.read_bytes()[:1000])
    (shards / "train-00002.tar").unlink()
    with pytest.raises(ValueError, match="damages") as error:
        ShardSet(shards, "train", dataset="toy")
    first, second = str(error.value).splitlines()
    assert "train-00001.tar has 1000 of" in first
    assert "damages 4 samples" in first
    assert "train-00002.tar is missing, which damages 2 samples" in second


def test_shard_cut_while_in_use_is_an_error_not_a_hang(shards: Path) -> None:
    split = ShardSet(shards, "train", dataset="toy")
    path = shards / "train-00001.tar"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="train-00001.tar: sample 7 lies past the end"):
        split.read(7)


def test_flipped_byte_is_found_by_hash(shards: Path) -> None:
    path = shards / "train-00002.tar"
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    ((found, line),) = damaged_shards(shards, "train", "toy", processes=1).items()
    assert found == path
    assert "train-00002.tar has changed" in line


def test_shard_of_the_wrong_size_hides_no_flipped_byte(shards: Path) -> None:
    cut, flipped, lost = (shards / f"train-0000{number}.tar" for number in range(3))
    cut.write_bytes(cut.read_bytes()[:1000])
    flipped.write_bytes(flipped.read_bytes().replace(bytes([5]) * 700, bytes([6]) * 700))
    lost.unlink()
    assert list(damaged_shards(shards, "train", "toy", processes=1)) == [cut, flipped, lost]


def test_missing_index_is_said(shards: Path) -> None:
    (shards / "train.index.npy").unlink()
    with pytest.raises(ValueError, match="train.index.npy is missing; run the recipe's prepare"):
        ShardSet(shards, "train", dataset="toy")


def test_other_data_set_and_equal_shards_are_refused(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="belongs to 'toy'"):
        ShardSet(shards, "train", dataset="imagenet")
    twins = Plan("toy", "val", ("jpg",), ["a", "a"], samples_per_shard=1)
    with pytest.raises(ValueError, match="hold the same bytes"):
        write_shards(tmp_path / "twins", twins, lambda number: (b"x",), processes=1)


def test_writing_again_redoes_the_lost_shard_only(shards: Path) -> None:
    kept, lost = shards / "train-00000.tar", shards / "train-00001.tar"
    before, old = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    write_shards(shards, PLAN, load, processes=1)
    assert (kept.stat().st_mtime_ns, lost.read_bytes()) == (before, old)
    assert damaged_shards(shards, "train", "toy", processes=1) == {}


def test_another_plan_writes_anew(shards: Path) -> None:
    other = Plan("toy", "train", ("jpg", "cls"), KEYS[:5], samples_per_shard=4)
    write_shards(shards, other, load, processes=1)
    assert len(ShardSet(shards, "train", dataset="toy")) == 5
    manifest = json.loads((shards / "train.json").read_text())
    assert [shard["samples"] for shard in manifest["shards"]] == [4, 1]
    assert len(list(shards.glob("*.tar"))) == 2
