"""Tar shards: read by webdataset, addressed by number, restartable, and plain about damage."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.common import shards as sharding
from datamodules.common.preparation import preparing
from datamodules.common.records import changed_units, raw_file
from datamodules.common.shard_writer import Loaded, Plan, write_shards
from datamodules.common.shards import ShardSet, damaged_shards, read_manifest

KEYS = [f"n{number:03d}" for number in range(10)]
PLAN = Plan("toy", "train", ("jpg", "cls"), KEYS, range(10), 4, facts={"side": 7})


def parts(number: int) -> tuple[bytes, bytes]:
    return bytes([number]) * (700 + 13 * number), str(number % 3).encode()


def load(number: int) -> Loaded:
    return Loaded(parts(number), numbers=[number**2])


def load_but(bad: int, number: int) -> Loaded:
    if number == bad:
        raise ValueError(f"sample {number} is broken")
    return load(number)


def write(folder: Path, plan: Plan = PLAN, load: Any = load, **options: Any) -> np.ndarray:
    """Write one split of a folder."""
    with preparing(folder, plan.dataset, {}, version=1, root=folder) as preparation:
        return write_shards(preparation, [plan], load, **{"processes": 1, **options})[plan.split]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write(tmp_path)
    return tmp_path


def test_read_by_number_gives_the_bytes_written(shards: Path) -> None:
    split = ShardSet(shards, "train", dataset="toy")
    assert len(split) == 10
    for number in (9, 0, 4, 3, 7):
        assert split.read(number) == parts(number)
    assert split.name(5).endswith("train-00001.tar: n005.jpg")
    assert split.manifest["facts"] == {"side": 7}
    assert damaged_shards(shards, "train", "toy", processes=1) == {}


def test_webdataset_reads_the_same_samples(shards: Path) -> None:
    import webdataset as wds

    files = [str(path) for path in sorted(shards.glob("train-*.tar"))]
    samples = list(wds.WebDataset(files, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == KEYS
    assert [(sample["jpg"], sample["cls"]) for sample in samples] == [parts(i) for i in range(10)]


def test_parallel_writers_give_the_same_bytes(shards: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write(other, processes=2)
    assert read_manifest(other, "train", "toy") == read_manifest(shards, "train", "toy")


def test_pickled_set_reads_in_another_process(shards: Path) -> None:
    split = ShardSet(shards, "train", dataset="toy")
    split.read(0)
    assert pickle.loads(pickle.dumps(split)).read(9) == parts(9)


def test_more_shards_than_open_files_are_read(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "OPEN_SHARDS", 1)
    split = ShardSet(shards, "train", dataset="toy")
    assert [split.read(i)[1] for i in (0, 9, 1, 5)] == [parts(i)[1] for i in (0, 9, 1, 5)]


def test_interrupted_writing_keeps_finished_shards(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^sample 5 is broken$"):
        write(tmp_path, load=partial(load_but, 5))
    with pytest.raises(ValueError, match="not finished"):
        ShardSet(tmp_path, "train", dataset="toy")
    before = (tmp_path / "train-00000.tar").stat().st_mtime_ns
    write(tmp_path)
    assert (tmp_path / "train-00000.tar").stat().st_mtime_ns == before
    assert ShardSet(tmp_path, "train", dataset="toy").read(5) == parts(5)
    assert not list(tmp_path.glob(".train*"))


def test_beginnings_of_a_killed_process_do_not_stay(tmp_path: Path) -> None:
    (tmp_path / ".train-00001.tar.partial-4711").write_bytes(b"x" * 1000)
    write(tmp_path)
    assert [path.name for path in tmp_path.glob(".*")] == [".lock"]


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
    with pytest.raises(ValueError, match="train-00001.tar: sample 7 is past the end"):
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
    twins = Plan("toy", "val", ("jpg",), ["a", "a"], [0, 0], samples_per_shard=1)
    with pytest.raises(ValueError, match="hold the same bytes"):
        write(tmp_path / "twins", twins, lambda number: Loaded((b"x",)))


def test_writing_again_redoes_the_lost_shard_only(shards: Path) -> None:
    kept, lost = shards / "train-00000.tar", shards / "train-00001.tar"
    before, old = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    write(shards)
    assert (kept.stat().st_mtime_ns, lost.read_bytes()) == (before, old)
    assert damaged_shards(shards, "train", "toy", processes=1) == {}


def test_another_plan_writes_anew(shards: Path) -> None:
    other = Plan("toy", "train", ("jpg", "cls"), KEYS[:5], range(5), samples_per_shard=4)
    write(shards, other)
    assert len(ShardSet(shards, "train", dataset="toy")) == 5
    manifest = json.loads((shards / "train.json").read_text())
    assert [shard["samples"] for shard in manifest["shards"]] == [4, 1]
    assert len(list(shards.glob("*.tar"))) == 2


def test_bytes_of_a_shard_do_not_change(shards: Path) -> None:
    """They depend on the samples only: not on the time, the user or the machine."""
    digest = hashlib.sha256((shards / "train-00000.tar").read_bytes()).hexdigest()
    assert digest == "fd4d34bb036f3bbcafec2a644888995497e5bc2b3a1b576a9ffff10c1d73c09d"


def test_index_has_the_further_numbers(tmp_path: Path) -> None:
    index_N6 = write(tmp_path)
    assert index_N6[:, 5].tolist() == [number**2 for number in range(10)]
    assert index_N6[:, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert np.array_equal(np.load(tmp_path / "train.index.npy"), index_N6)


def test_changed_text_rewrites_its_shard_only(tmp_path: Path) -> None:
    def plan(*texts: str) -> Plan:
        return replace(PLAN, texts=texts)

    write(tmp_path, plan(*KEYS))
    stamps = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.tar")}
    write(tmp_path, plan(*KEYS[:6], "changed", *KEYS[7:]))
    assert [n for n, t in stamps.items() if (tmp_path / n).stat().st_mtime_ns != t] == [
        "train-00001.tar"
    ]


def load_file(path: Path) -> Loaded:
    return Loaded((path.read_bytes(), b"0"), [raw_file(path)])


def test_changed_raw_file_rewrites_its_shard_only(tmp_path: Path) -> None:
    for key in KEYS:
        (tmp_path / key).write_text(key)
    out, files = tmp_path / "out", [tmp_path / key for key in KEYS]

    def prepare(redo: Any = ()) -> None:
        with preparing(out, "toy", {}, version=1, root=tmp_path, redo=redo) as preparation:
            write_shards(preparation, [replace(PLAN, items=files)], load_file, processes=1)

    prepare()
    files[7].write_text("abcd")
    lines = changed_units(out, tmp_path)
    assert lines == {"train-00001.tar": f"{files[7]} changed since it was prepared"}
    prepare(lines)
    assert ShardSet(out, "train", dataset="toy").read(7)[0] == b"abcd"
    assert changed_units(out, tmp_path) == {}


# A finished split of two shards as finishline 0.1 wrote it, with its own tar writer.
OLD = Path(__file__).parent / "shards_of_0_1"


def test_shards_of_version_0_1_are_read_and_kept(tmp_path: Path) -> None:
    old = shutil.copytree(OLD, tmp_path / "old")
    plan = replace(PLAN, keys=KEYS[:3], items=range(3), samples_per_shard=2)
    split = ShardSet(old, "train", dataset="toy")
    assert [split.read(number) for number in range(3)] == [parts(number) for number in range(3)]
    assert split.name(1).endswith("train-00000.tar: n001.jpg")
    (old / "train-00001.tar").unlink()
    kept = old / "train-00000.tar"
    before = kept.stat().st_mtime_ns
    write(old, plan, lambda number: Loaded(parts(number)))
    assert kept.stat().st_mtime_ns == before
    split = ShardSet(old, "train", dataset="toy")
    assert [split.read(number) for number in range(3)] == [parts(number) for number in range(3)]
    assert damaged_shards(old, "train", "toy", processes=1) == {}


def test_bad_samples_of_all_splits_are_named_and_other_shards_kept(tmp_path: Path) -> None:
    plans = [PLAN, replace(PLAN, split="val", facts={})]
    with (
        pytest.raises(ValueError, match="broken") as error,
        preparing(tmp_path, "toy", {}, version=1, root=tmp_path) as preparation,
    ):
        write_shards(preparation, plans, partial(load_but, 5), processes=1)
    assert str(error.value).splitlines() == ["sample 5 is broken"] * 2
    assert len(list(tmp_path.glob("*.tar"))) == 4
