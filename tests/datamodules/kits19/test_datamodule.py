"""KiTS19DataModule: batches, ranks, resume, demo, and the same samples whatever loads them."""

import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from datamodules.common.sampling import SampleKey
from datamodules.kits19 import KiTS19DataModule
from datamodules.kits19 import datamodule as kits19
from datamodules.kits19.demo import phantom, write_phantoms
from datamodules.kits19.raw import find_data
from datamodules.kits19.volumes import Batch, DeviceOrder
from tests.datamodules.kits19.tiny_kits19 import SPLIT, write_case, write_raw

CROP = (32, 32, 32)


@pytest.fixture
def cache() -> None:
    """The demo, ready in the tests' cache folder."""
    demo().prepare_data()


def demo(**options: Any) -> KiTS19DataModule:
    """The demo at its preset's crop size."""
    return KiTS19DataModule(crop_size=CROP, **options)


def attach(data: KiTS19DataModule, rank: int = 0, world_size: int = 1, accumulate: int = 1) -> None:
    """A stand-in trainer: fresh run, some rank."""
    progress = SimpleNamespace(started=0, processed=0, completed=0, ready=0)
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_rank=rank,
        world_size=world_size,
        accumulate_grad_batches=accumulate,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        fit_loop=SimpleNamespace(
            epoch_progress=SimpleNamespace(current=progress),
            epoch_loop=SimpleNamespace(),
        ),
    )


def epoch_batches(data: KiTS19DataModule, epoch: int = 0) -> list[Any]:
    """All training batches of one epoch."""
    loader = data.train_dataloader()
    loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
    return list(loader)


def equal(a: Batch, b: Batch) -> bool:
    """Whether two batches are equal to the bit."""
    return all(torch.equal(a[key], b[key]) for key in ("image", "label", "index"))


def test_phantom_is_a_function_of_its_number() -> None:
    image, label = phantom(3)
    again, _ = phantom(3)
    assert np.array_equal(image, again)
    assert image.shape == label.shape
    assert set(np.unique(label)) == {0, 1, 2}
    assert image[label == 2].mean() > image[label == 1].mean() > image[label == 0].mean()


def test_demo_is_generated_once_in_the_raw_layout_within_seconds(
    cache: None, tmp_path: Path
) -> None:
    start = time.monotonic()
    write_phantoms(tmp_path)
    assert time.monotonic() - start < 10
    assert (tmp_path / "case_00000" / "imaging.nii.gz").is_file()
    data = demo()
    assert data.demo
    manifest = data._prepared / "manifest.json"
    stamp = manifest.stat().st_mtime_ns
    data.prepare_data()
    assert manifest.stat().st_mtime_ns == stamp
    assert data.problems() == []


def test_demo_volumes_both_crop_and_pad_in_the_sliding_window(cache: None) -> None:
    sizes = [size for case in demo()._cases(demo()._split.cases) for size in case.shape]
    assert 36 <= min(sizes) <= max(sizes) <= 56
    remainders = {size % 16 < 8 for size in sizes}
    assert remainders == {True, False}


def test_prepare_data_when_ready_opens_no_sample_file(cache: None) -> None:
    opened: list[str] = []
    watching = True

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "open":
            opened.append(str(arguments[0]))

    sys.addaudithook(watch)
    data = demo()
    data.prepare_data()
    data.setup("fit")
    data.mllog_facts()
    data.synthetic_batch()
    watching = False
    assert any(path.endswith("manifest.json") for path in opened)
    assert not [path for path in opened if path.endswith((".npy", ".nii.gz"))]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_train_batches_have_the_contracts_shapes(cache: None, num_workers: int) -> None:
    batches = epoch_batches(demo(num_workers=num_workers))
    assert len(batches) == 7
    for batch in batches:
        assert batch["image"].shape == batch["label"].shape == (2, 1, *CROP)
        assert (batch["image"].dtype, batch["label"].dtype) == (torch.float32, torch.uint8)
        assert batch["index"].dtype == torch.int64
    assert sorted(torch.cat([batch["index"] for batch in batches]).tolist()) == list(range(14))
    synthetic = demo().synthetic_batch()
    assert {key: (value.shape, value.dtype) for key, value in synthetic.items()} == {
        key: (value.shape, value.dtype) for key, value in batches[0].items()
    }


def test_train_samples_are_equal_for_workers_and_ranks(
    cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "4")
    alone = epoch_batches(demo(batch_size=4), epoch=2)
    torch.manual_seed(99)  # a loader's workers are seeded from this; samples must not be
    assert all(
        equal(a, b)
        for a, b in zip(
            alone, epoch_batches(demo(batch_size=4, num_workers=2), epoch=2), strict=True
        )
    )
    shares = []
    for rank in range(2):
        data = demo(batch_size=2)
        attach(data, rank, 2)
        assert data.samples_per_epoch == 16
        shares.append(epoch_batches(data, epoch=2))
    for whole, first, second in zip(alone, *shares, strict=True):
        for key in ("image", "label", "index"):
            woven = torch.stack([first[key], second[key]], dim=1).flatten(0, 1)
            assert torch.equal(woven, whole[key])
    other = epoch_batches(demo(batch_size=4), epoch=3)
    assert not equal(alone[0], other[0])


def test_train_sample_depends_on_seed_epoch_and_repetition(
    cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset: Any = demo().train_dataloader().dataset
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    reseeded: Any = demo().train_dataloader().dataset
    draws = {
        dataset.draw(SampleKey(3, 0, 0)),
        dataset.draw(SampleKey(3, 1, 0)),
        dataset.draw(SampleKey(3, 0, 1)),
        reseeded.draw(SampleKey(3, 0, 0)),
    }
    assert len(draws) == 4
    dataset.draw(SampleKey(5, 0, 0))
    assert dataset.draw(SampleKey(3, 0, 0)) in draws  # not on what came before


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_val_batches_cover_each_volume_once(cache: None, world_size: int) -> None:
    seen = []
    for rank in range(world_size):
        data = demo()
        attach(data, rank, world_size)
        for batch in data.val_dataloader():
            assert batch["image"].shape == batch["label"].shape
            assert batch["image"].shape[:2] == (1, 1)
            seen += batch["index"].tolist()
    assert sorted(seen) == list(range(6))


def test_train_and_evaluation_cases_are_apart(cache: None) -> None:
    split = demo()._split
    assert (len(split.train), len(split.evaluation)) == (14, 6)
    assert not set(split.train) & set(split.evaluation)


def test_device_cache_crops_where_the_host_path_crops(cache: None) -> None:
    host, device = demo(), demo(device_cache=True)
    for ours, order in zip(epoch_batches(host, 5), epoch_batches(device, 5), strict=True):
        assert isinstance(order, DeviceOrder)
        made = device.transfer_batch_to_device(order, torch.device("cpu"), 0)
        assert torch.equal(ours["label"], made["label"])
        assert torch.equal(ours["index"], made["index"])
        assert made["image"].dtype == torch.float32
        # Half precision keeps 11 bits of values up to 6 (brightened).
        torch.testing.assert_close(made["image"], ours["image"], atol=4e-3, rtol=0)


class _Watcher(L.LightningModule):
    """Keeps the batches that reach its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.trained: list[Batch] = []
        self.evaluated: list[Batch] = []

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.trained.append(batch)
        return self.layer(batch["image"].mean().reshape(1)).sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.evaluated.append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.0)


@pytest.mark.filterwarnings("ignore")
def test_device_cache_reaches_the_steps_through_lightning(cache: None) -> None:
    module, data = _Watcher(), demo(device_cache=True)
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, data)
    assert all(
        torch.equal(a["label"], b["label"])
        for a, b in zip(module.trained, epoch_batches(demo()), strict=True)
    )
    assert [batch["index"].tolist() for batch in module.evaluated] == [[i] for i in range(6)]


def test_device_cache_evaluates_the_very_same_volumes(cache: None) -> None:
    device = demo(device_cache=True)
    for _ in range(2):  # the second time from the cache
        made = [
            device.transfer_batch_to_device(order, torch.device("cpu"), 0)
            for order in device.val_dataloader()
        ]
        assert all(equal(a, b) for a, b in zip(demo().val_dataloader(), made, strict=True))


def test_device_cache_stays_as_loaded_after_augmentation(cache: None) -> None:
    device = demo(device_cache=True)
    cpu = torch.device("cpu")
    for epoch in range(3):
        for order in epoch_batches(device, epoch):
            device.transfer_batch_to_device(order, cpu, 0)
    dataset: Any = demo().train_dataloader().dataset
    fresh = np.load(dataset.folder / f"case_{dataset.cases[0].case}_x.npy").astype(np.float16)
    loader = device.train_dataloader()
    device.transfer_batch_to_device(DeviceOrder([0], [dataset.draw(SampleKey(0, 0, 0))]), cpu, 0)
    volumes = device._train_volumes
    assert volumes is not None
    assert len(loader) == 7
    assert np.array_equal(volumes.volume(0, cpu)[0].numpy(), fresh)


def test_mllog_facts_of_the_closed_reference(tmp_path: Path) -> None:
    data = KiTS19DataModule(root=tmp_path)
    attach(data, world_size=8, accumulate=2)
    assert data.mllog_facts() == {
        "train_samples": 168,
        "eval_samples": 42,
        "samples_per_epoch": 192,
        "oversampling": 0.4,
        "training_input_shape": [128, 128, 128],
    }


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A raw root of four cases that the datamodule takes for the whole of KiTS19."""
    monkeypatch.setattr(kits19, "kits19_split", lambda: SPLIT)
    return write_raw(tmp_path / "kits19" / "data").parent


def test_root_goes_through_the_same_preparation(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = KiTS19DataModule(root=tiny, crop_size=(8, 8, 8))
    assert not data.demo
    assert data.problems() == []
    with pytest.raises(ValueError, match="3 cases are not preprocessed"):
        data.train_dataloader()
    data.prepare()
    assert "3 training and 1 evaluation cases" in capsys.readouterr().out
    assert data._prepared == tiny / "finishline-unet3d-8x8x8"
    assert len(epoch_batches(data)) == 2


def test_prepare_says_which_raw_case_has_changed(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = KiTS19DataModule(root=tiny, crop_size=(8, 8, 8))
    data.prepare()
    before = data._cases(SPLIT.cases)
    changed = tiny / "data" / "case_00001" / "imaging.nii.gz"
    write_case(tmp_path / "other", "00007").joinpath("imaging.nii.gz").replace(changed)
    data.prepare_data()  # reads the manifest only
    assert data._cases(SPLIT.cases) == before
    data.prepare()
    line = f"{changed} changed since it was prepared; preparing it again"
    assert line in capsys.readouterr().out
    after = data._cases(SPLIT.cases)
    assert [a.case for a, b in zip(after, before, strict=True) if a != b] == ["00001"]


def test_root_with_preprocessed_files_is_taken_as_it_is(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere"
    KiTS19DataModule(root=tiny, crop_size=(8, 8, 8), prepared_dir=out).prepare_data()
    (out / "manifest.json").unlink()
    shutil.rmtree(tiny)
    data = KiTS19DataModule(root=out, crop_size=(8, 8, 8))
    data.prepare_data()
    assert find_data(out) == data._prepared == out
    assert len(epoch_batches(data)) == 2


def test_problems_lists_each_on_one_line(tiny: Path, tmp_path: Path) -> None:
    (tiny / "data" / "case_00001" / "imaging.nii.gz").unlink()
    (tiny / "data" / "case_00002" / "segmentation.nii.gz").write_text("x")
    lines = KiTS19DataModule(root=tiny, crop_size=(8, 8, 8)).problems()
    assert len(lines) == 2
    assert KiTS19DataModule(root=tmp_path / "no").problems()[0].startswith("data root")


def test_wrong_arguments_are_all_named() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0") as caught:
        KiTS19DataModule(batch_size=0, oversampling=1.5)
    assert "oversampling must be in [0, 1], got 1.5" in str(caught.value)


def test_truncated_volume_is_named_and_prepare_makes_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kits19, "kits19_split", lambda: SPLIT)
    data = KiTS19DataModule(root=write_raw(tmp_path), crop_size=(8, 8, 8))
    data.prepare_data()
    path = tmp_path / "finishline-unet3d-8x8x8" / "case_00001_x.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    attach(data)
    with pytest.raises(ValueError, match="case_00001_x.npy has 3004 of 3008 bytes; run the rec"):
        list(data.train_dataloader())
    (line,) = data.problems()
    assert line.startswith(f"{path} has {len(whole) - 4} of {len(whole)} bytes; run the recipe's")
    data.prepare()
    assert path.read_bytes() == whole
    assert data.problems() == []


@pytest.mark.parametrize(
    "content", ['{"dataset": "kits19", "format": 3}', '{"dataset": "kits19", "format": 2}', "{"]
)
def test_prepare_replaces_the_manifest_of_another_version_and_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setattr(kits19, "kits19_split", lambda: SPLIT)
    data = KiTS19DataModule(root=write_raw(tmp_path), crop_size=(8, 8, 8))
    data.prepare_data()
    path = tmp_path / "finishline-unet3d-8x8x8" / "manifest.json"
    whole = path.read_bytes()
    path.write_text(content)
    data.prepare()
    assert path.read_bytes() == whole
