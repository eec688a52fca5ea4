"""Images streamed over http: those of the prepared shards to the bit, and one line for bad ones."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.common.stream import share, splits
from datamodules.imagenet import ImageNetDataModule
from datamodules.imagenet import prepare as builder
from tests.datamodules.common.stream.shard_server import ShardServer, serving, tar_bytes
from tests.datamodules.imagenet.test_datamodule import attach
from tests.datamodules.imagenet.tiny_imagenet import COUNTS, write_tiny

SIZES = {"batch_size": 16, "evaluation_batch_size": 7, "image_size": 32}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_tiny(tmp_path_factory.mktemp("tiny"))
    folder = tmp_path_factory.mktemp("prepared")
    builder.write_all_shards(root, folder, COUNTS, processes=1, samples_per_shard=12)
    return folder


@pytest.fixture(scope="module")
def server(prepared: Path) -> Iterator[ShardServer]:
    with serving(prepared) as server:
        yield server


def streamed(shards: str, **options: Any) -> ImageNetDataModule:
    module = ImageNetDataModule(shards=shards, **{**SIZES, **options})
    return attach(module)


def by_number(batches: Any) -> dict[int, tuple[torch.Tensor, int]]:
    return {
        int(index): (image, int(label))
        for batch in batches
        for index, image, label in zip(batch["index"], batch["image"], batch["label"], strict=True)
    }


def pictures(batches: Any) -> set[tuple[int, bytes]]:
    return {
        (int(number), image.numpy().tobytes())
        for batch in batches
        for number, image in zip(batch["index"], batch["image"], strict=True)
    }


def same(one: dict[int, Any], other: dict[int, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(image, other[n][0]) and label == other[n][1]
        for n, (image, label) in one.items()
    )


def test_prepared_shards_behind_http_give_the_same_images(
    server: ShardServer, prepared: Path
) -> None:
    module = streamed(f"{server.url}/")
    module.prepare_data()
    plain = attach(ImageNetDataModule(root=prepared, **SIZES))
    assert module.counts == COUNTS
    assert module.class_names() == plain.class_names()
    assert module.net_facts() == {"num_classes": 10, "image_size": 32}
    assert same(by_number(module.val_dataloader()), by_number(plain.val_dataloader()))
    ours, theirs = list(module.train_dataloader()), list(plain.train_dataloader())
    assert [len(batch["index"]) for batch in ours] == [16] * 9
    assert module.samples_per_epoch == plain.samples_per_epoch == 144
    # Those that pad the epoch are other ones, with draws of their own.
    assert len(pictures(ours)) == 144
    assert len(pictures(ours) & pictures(theirs)) >= 130


def test_prepared_shards_are_read_in_pieces_from_all_over(
    server: ShardServer, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (share, splits):
        monkeypatch.setattr(module, "PIECE", 5)
    there, here = (streamed(s, shuffle_buffer=20) for s in (f"{server.url}/", str(prepared)))
    server.requests.clear()
    batches, local = list(there.train_dataloader()), list(here.train_dataloader())
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(batches, local, strict=True))
    assert {int(n) for batch in batches for n in batch["index"]} == set(range(130))
    # The shards are sorted by class; 13 images of each would fill the buffer.
    assert min(len(batch["label"].unique()) for batch in batches) >= 3
    ranges = [wanted for name, wanted in server.requests if name.startswith("train-000")]
    assert len(ranges) >= 11 * 3 - 1
    assert sum(wanted.endswith("-") for wanted in ranges) <= 11 + 3  # the last of a shard


def test_a_server_that_sends_whole_files_only_is_used_with_a_note(
    server: ShardServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "ranges", False)
    module = streamed(f"{server.url}/")
    batches = list(module.train_dataloader())
    assert {int(n) for batch in batches for n in batch["index"]} == set(range(130))
    assert "train-00000.tar is served whole only (no HTTP ranges)" in capsys.readouterr().out
    whole = module.streamed.digest()  # type: ignore[union-attr]
    monkeypatch.setattr(server, "ranges", True)
    pieces = streamed(f"{server.url}/").streamed
    assert pieces is not None
    assert pieces.notes() == []
    assert pieces.digest() != whole  # another order, in which no run can be resumed


def test_two_ranks_share_the_images_and_differ_in_none(server: ShardServer) -> None:
    training, evaluation = [], []
    for rank in (0, 1):
        module = attach(streamed(f"{server.url}/", batch_size=8, num_workers=0), rank, 2)
        training.append({int(n) for b in module.train_dataloader() for n in b["index"]})
        evaluation.append([int(n) for b in module.val_dataloader() for n in b["index"]])
    assert training[0] | training[1] == set(range(130))
    assert len(training[0] & training[1]) <= 14  # those that pad
    assert sorted(evaluation[0] + evaluation[1]) == list(range(30))


def test_a_resumed_run_takes_the_rest_of_its_epoch_and_says_what_it_costs(
    server: ShardServer, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = list(streamed(f"{server.url}/").train_dataloader())
    module = attach(streamed(f"{server.url}/"), done=5)
    rest = list(module.train_dataloader())
    assert len(rest) == 4
    for one, other in zip(rest, whole[5:], strict=True):
        assert torch.equal(one["image"], other["image"])
    said = capsys.readouterr().out
    assert "Resuming in epoch 1 after 5 batches" in said
    assert "80 samples, 56% of the epoch (about 0.00 GB), are read again and skipped" in said


def image_bytes(form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(buffer, form)
    return buffer.getvalue()


GOOD = image_bytes()


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"jpg": GOOD[:-300], "cls": b"1"}, "cannot be decoded"),
        ({"jpg": b"text", "cls": b"1"}, "is not a readable image"),
        ({"jpg": GOOD, "cls": b"3"}, r"has class '3' \(cls\); with data.num_classes it is 0 to 2"),
        ({"jpg": GOOD, "cls": b"-1"}, "has class '-1'"),
        ({"jpg": GOOD, "cls": b"cat"}, "has class 'cat'"),
        ({"jpg": GOOD, "cls": b"0" * 30 + b"3"}, "has class '0000"),
        ({"jpg": GOOD, "cls": b"9" * 5000}, "has class '9999"),
        ({"jpg": GOOD}, "has no cls, only jpg"),
        ({"mp4": b"", "cls": b"1"}, "has no jpg or jpeg or png"),
    ],
)
def test_a_bad_sample_is_named_by_shard_and_key(
    tmp_path: Path, fields: dict[str, bytes], line: str
) -> None:
    good = {"png": image_bytes("PNG"), "cls": b"2\n"}
    (tmp_path / "v-0.tar").write_bytes(tar_bytes([("v", good)]))
    (tmp_path / "t-0.tar").write_bytes(tar_bytes([("a", good), ("bad/b", fields)]))
    module = streamed(
        f"{tmp_path}/t-0.tar", val_shards=f"{tmp_path}/v-{{0..0}}.tar", num_classes=3,
        num_train_samples=2, num_val_samples=1, batch_size=2,
    )  # fmt: skip
    module.prepare_data()
    assert [b["label"].tolist() for b in module.val_dataloader()] == [[2]]
    with pytest.raises(ValueError, match=f"^{tmp_path}/t-0.tar: bad/b {line}"):
        list(module.train_dataloader())


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"val_shards": "v-0.tar"}, "data.val_shards goes with --data.shards PATTERN"),
        ({"num_train_samples": 3}, "data.num_train_samples goes with --data.shards PATTERN"),
        ({"shards": "http://h/0.tar", "root": Path()}, "give --data.root or --data.shards, not"),
        ({"shards": "http://h/0.tar"}, "--data.val_shards PATTERN must name the shards to evalu"),
        ({"shards": "http://h", "shuffle_buffer": -1}, "shuffle_buffer must be at least 0"),
        ({"shards": "http://h", "num_val_samples": 0}, "num_val_samples must be at least 1, got"),
    ],
)
def test_flags_that_contradict_each_other_are_one_line(options: Any, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        ImageNetDataModule(**options)


def test_what_is_missing_is_one_line(server: ShardServer, tmp_path: Path, prepared: Path) -> None:
    train, val = f"{server.url}/train-{{00000..00010}}.tar", f"{server.url}/val-0000{{0..2}}.tar"
    assert streamed(train, val_shards=val).problems() == []
    cases = {
        (f"{server.url}/nothing/", None): "nothing/train.json does not exist",
        (train.replace("10}", "11}"), val): "how many samples it holds is not known",
        (train, train): "must not be trained on",
        (str(tmp_path), None): "is not a directory of prepared imagenet shards",
    }
    for (shards, val_shards), line in cases.items():
        (problem,) = streamed(shards, val_shards=val_shards).problems()
        assert line in problem
    server.faults["train-00003.tar"] = "status:404"
    (problem,) = streamed(train, val_shards=val).problems()
    assert problem == f"{server.url}/train-00003.tar: the server answered 404 Not Found"
    del server.faults["train-00003.tar"]
    (tmp_path / "finishline-imagenet").symlink_to(prepared)
    (problem,) = streamed(str(tmp_path)).problems()
    assert problem.endswith("finishline-imagenet is one")


def test_no_local_shard_is_opened_and_no_command_run_before_training(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(splits, "open_shard", lambda address: opened.append(address))
    streamed(str(prepared)).prepare_data()
    command = f"pipe:touch {tmp_path}/ran; cat {prepared}/train-0000{{0..9}}.tar"
    module = streamed(
        command, val_shards=f"pipe:cat {prepared}/val-00000.tar", num_classes=10,
        num_train_samples=120, num_val_samples=12, shuffle_buffer=0,
    )  # fmt: skip
    module.prepare_data()
    assert module.samples_per_epoch == 128
    assert not opened
    assert not (tmp_path / "ran").exists()
    assert len({int(n) for batch in module.train_dataloader() for n in batch["index"]}) == 120
    assert (tmp_path / "ran").exists()


def test_prepare_counts_shards_without_an_index(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, number in (("t", 3), ("v", 2)):
        samples = [(f"{name}{n}", {"jpg": GOOD, "cls": b"0"}) for n in range(number)]
        (tmp_path / f"{name}.tar").write_bytes(tar_bytes(samples))
    flags = {"val_shards": f"{tmp_path}/v.tar", "num_classes": 2, "batch_size": 3}
    module = streamed(f"{tmp_path}/t.tar", **flags, prepared_dir=tmp_path / "counted")
    with pytest.raises(ValueError, match=r"put a sizes\.json next to the shards"):
        module.prepare_data()
    module.prepare()
    assert "1 training shards with 3 samples and 1 evaluation shards with 2" in (
        capsys.readouterr().out
    )
    again = streamed(f"{tmp_path}/t.tar", **flags, prepared_dir=tmp_path / "counted")
    again.prepare_data()
    assert (again.counts.train, again.counts.val) == (3, 2)
    assert len(list(again.train_dataloader())) == 1
