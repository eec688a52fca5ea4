"""ImageNetDataModule: the same images from files and shards, on 1 and N ranks, cut and resumed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from datamodules.imagenet import ImageNetDataModule
from datamodules.imagenet import prepare as builder
from datamodules.imagenet.samples import BadImageError
from tests.datamodules.imagenet.tiny_imagenet import COUNTS, SETTINGS, write_tiny


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def shards(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    builder.write_all_shards(root, folder, COUNTS, processes=1, samples_per_shard=40)
    return folder


def data(root: Path, **options: Any) -> ImageNetDataModule:
    module = ImageNetDataModule(
        root=root, **{"batch_size": 16, "evaluation_batch_size": 7, **SETTINGS, **options}
    )
    attach(module)
    module.prepare_data()
    return module


def attach(
    module: ImageNetDataModule,
    rank: int = 0,
    world_size: int = 1,
    accumulate: int = 1,
    done: int = 0,
) -> ImageNetDataModule:
    """A stand-in trainer at some rank, after some batches of the first epoch."""
    epochs = SimpleNamespace(started=min(done, 1), processed=0)
    total = SimpleNamespace(ready=done, started=done, processed=done, completed=done)
    progress = SimpleNamespace(
        total=total, current=SimpleNamespace(completed=done), is_last_batch=False
    )
    module.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_rank=rank,
        world_size=world_size,
        accumulate_grad_batches=accumulate,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        fit_loop=SimpleNamespace(
            epoch_progress=SimpleNamespace(current=epochs),
            epoch_loop=SimpleNamespace(batch_progress=progress),
        ),
    )
    return module


def epoch_batches(module: ImageNetDataModule, epoch: int = 0) -> list[Any]:
    loader = module.train_dataloader()
    loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
    return list(loader)


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(one[key], other[key]) for key in ("image", "label", "index"))


def test_batches_are_uint8_images_with_channels_innermost(root: Path) -> None:
    batch = epoch_batches(data(root))[0]
    assert batch["image"].shape == (16, 3, 64, 64)
    assert batch["image"].dtype == torch.uint8
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch["label"], batch["index"] // 13)


def test_synthetic_batch_is_like_a_training_batch(root: Path) -> None:
    module = data(root)
    real, synthetic = epoch_batches(module)[0], module.synthetic_batch()
    for key, value in real.items():
        assert synthetic[key].shape == value.shape  # type: ignore[literal-required]
        assert synthetic[key].dtype == value.dtype  # type: ignore[literal-required]
        assert synthetic[key].stride() == value.stride()  # type: ignore[literal-required]


def test_shards_and_files_give_the_same_images_to_the_bit(root: Path, shards: Path) -> None:
    files, tars = data(root), data(shards)
    pairs = [*zip(epoch_batches(files), epoch_batches(tars), strict=True)]
    pairs += [*zip(files.val_dataloader(), tars.val_dataloader(), strict=True)]
    assert len(pairs) == 9 + 5
    assert all(same(one, other) for one, other in pairs)


def test_epoch_visits_every_image_and_pads_the_last_batch(root: Path) -> None:
    module = data(root)
    index = torch.cat([batch["index"] for batch in epoch_batches(module)])
    assert len(index) == module.samples_per_epoch == 144
    assert set(index[:130].tolist()) == set(range(130))


def test_epochs_differ_in_order_and_in_crops(root: Path) -> None:
    module = data(root)
    first, second = epoch_batches(module, 0), epoch_batches(module, 1)
    assert not torch.equal(first[0]["index"], second[0]["index"])
    number = int(first[0]["index"][0])
    views = [
        batch["image"][place]
        for batch in (*first[:8], *second[:8])
        for place in (batch["index"] == number).nonzero()[:, 0].tolist()
    ]
    assert len(views) == 2
    assert not torch.equal(views[0], views[1])


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_out_the_global_batch_of_one_rank(root: Path, world_size: int) -> None:
    one = epoch_batches(data(root))
    module = data(root, batch_size=16 // world_size)
    parts = [epoch_batches(attach(module, rank, world_size)) for rank in range(world_size)]
    assert len({len(part) for part in parts}) == 1
    for step, whole in enumerate(one):
        for rank, part in enumerate(parts):
            assert torch.equal(part[step]["image"], whole["image"][rank::world_size])


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_evaluation_takes_every_image_once_over_all_ranks(root: Path, world_size: int) -> None:
    module = data(root)
    index = [
        batch["index"]
        for rank in range(world_size)
        for batch in attach(module, rank, world_size).val_dataloader()
    ]
    assert sorted(torch.cat(index).tolist()) == list(range(30))


def test_resumed_epoch_goes_on_with_the_batch_after_the_last(root: Path) -> None:
    module = data(root)
    whole = epoch_batches(module)
    rest = epoch_batches(attach(module, done=4))
    assert len(rest) == len(whole) - 4
    assert all(same(one, other) for one, other in zip(whole[4:], rest, strict=True))


def test_workers_give_the_same_batches(root: Path, shards: Path) -> None:
    alone = epoch_batches(data(shards))
    helped = epoch_batches(data(shards, num_workers=2))
    assert all(same(one, other) for one, other in zip(alone, helped, strict=True))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_damaged_image_is_one_line_also_from_a_worker(
    root: Path, tmp_path: Path, num_workers: int
) -> None:
    copy = write_tiny(tmp_path)
    bad = copy / "val/n00000003/ILSVRC2012_val_00000003.JPEG"
    bad.write_bytes(bad.read_bytes()[:800])
    with pytest.raises(BadImageError) as error:
        list(data(copy, num_workers=num_workers).val_dataloader())
    assert str(error.value).startswith(f"{bad} cannot be decoded")
    assert str(error.value).endswith("; extract it from its archive again")
    assert len(str(error.value).splitlines()) == 1


def test_shard_cut_after_the_start_is_one_line(root: Path, tmp_path: Path) -> None:
    builder.write_all_shards(root, tmp_path, COUNTS, processes=1)
    module = data(tmp_path)
    shard = tmp_path / "val-00000.tar"
    loader = module.val_dataloader()
    shard.write_bytes(shard.read_bytes()[:5000])
    with pytest.raises(BadImageError, match="is past the end of the file"):
        list(loader)


def test_batch_larger_than_the_data_set_is_refused(root: Path) -> None:
    module = attach(data(root, batch_size=20), 0, 2, 4)
    with pytest.raises(ValueError, match="global batch of 160 images .* larger than .* 130"):
        module.setup("fit")


def test_bad_numbers_are_refused_all_at_once() -> None:
    with pytest.raises(ValueError, match="must be at least") as error:
        ImageNetDataModule(batch_size=0, num_workers=-1)
    assert str(error.value).splitlines() == [
        "data.batch_size must be at least 1, got 0",
        "data.num_workers must be at least 0, got -1",
    ]


def test_closed_facts_are_imagenets(tmp_path: Path) -> None:
    closed = ImageNetDataModule(
        root=tmp_path, num_classes=1000, num_train=1_281_167, num_val=50_000
    )
    module = attach(closed, world_size=8)
    assert module.mllog_facts() == {
        "train_samples": 1_281_167,
        "eval_samples": 50_000,
        "samples_per_epoch": 393 * 3264,
    }


def test_demo_is_ready_after_prepare_data_and_holds_odd_files() -> None:
    module = ImageNetDataModule(image_size=64)
    module.prepare_data()
    assert module.demo
    place = (module._source, module._prepared, module.counts)
    assert builder.write_all_shards(*place, processes=1) == 2  # finished shards are kept
    assert len(list(module._source.glob("train/*/*.JPEG"))) == module.counts.train == 1000
