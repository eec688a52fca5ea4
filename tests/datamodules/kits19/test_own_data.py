"""Own data in KiTS19's layout: any cases, classes and split, and what differs from KiTS19."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import numpy as np
import pytest

from datamodules.kits19 import KiTS19DataModule
from datamodules.kits19 import datamodule as kits19
from datamodules.kits19.demo import save_nifti
from modules.unet3d import UNet3DModule
from modules.unet3d.net import UNet3D
from tests.datamodules.kits19.tiny_kits19 import SPLIT, write_case, write_raw

CROP = (8, 8, 8)
NAMES = ("liver1", "liver2", "liver3", "liver4", "spleen1", "spleen2")


def own(root: Path, **options: object) -> KiTS19DataModule:
    return KiTS19DataModule(root=root, crop_size=CROP, **options)  # type: ignore[arg-type]


def write_classes(root: Path, names: Sequence[str] = NAMES, classes: int = 4) -> Path:
    """Cases with as many classes, not all in each."""
    for number, name in enumerate(names):
        folder = root / f"case_{name}"
        folder.mkdir(parents=True)
        rng = np.random.default_rng(number)
        label = np.zeros((6, 14, 14), np.uint8)
        for value in range(1, classes):
            label[1:4, 3 * value : 3 * value + 3, 3:9] = value
        if number == 1:
            label[label == classes - 1] = 0
        image = (100 * label.astype(float) + rng.normal(0, 9, label.shape)).astype(np.int16)
        save_nifti(folder / "imaging.nii.gz", image)
        save_nifti(folder / "segmentation.nii.gz", label)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "own")


def test_own_cases_and_classes_are_the_datas(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = own(root)
    line = "6 cases of other names instead of its 210"
    assert data.differences() == [line]
    with pytest.raises(ValueError, match="is not prepared; run the recipe's prepare command"):
        data.net_facts()
    assert data.problems() == []
    data.prepare()
    text = capsys.readouterr().out
    assert f"Own data is ready in {root}/finishline-unet3d-8x8x8: 4 training and 2 eval" in text
    assert "evaluation cases, 4 classes" in text
    assert "--data.evaluation_cases FILE" in text
    assert data._split.evaluation == ("liver1", "spleen2")  # every fifth
    assert data.differences() == [line, "4 classes instead of its 3"]
    assert data.class_names == ("1", "2", "3")
    assert data.net_facts() == {
        "spatial_dims": 3,
        "in_channels": 1,
        "num_classes": 4,
        "image_size": CROP,
    }


def test_own_split_is_read_from_a_file(root: Path, tmp_path: Path) -> None:
    chosen = tmp_path / "evaluation.txt"
    chosen.write_text("spleen1\ncase_liver3\n")
    split = own(root, evaluation_cases=chosen)._split
    assert split.evaluation == ("liver3", "spleen1")
    assert split.train == ("liver1", "liver2", "liver4", "spleen2")
    chosen.write_text("liver9\n")
    line = f"data.evaluation_cases {chosen}: case_liver9 is not in {root}"
    assert own(root, evaluation_cases=chosen).problems() == [line]
    chosen.write_text("")
    (line,) = own(root, evaluation_cases=chosen).problems()
    assert line.startswith(f"{root}: 6 training and 0 evaluation cases; needed is at least one")
    chosen.unlink()
    assert own(root, evaluation_cases=chosen).problems() == [
        f"data.evaluation_cases {chosen}: No such file or directory"
    ]


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_own_classes_are_trained_and_each_is_measured(tmp_path: Path, classes: int) -> None:
    data = own(write_classes(tmp_path / "own", classes=classes))
    data.prepare_data()
    module = UNet3DModule(
        net=lambda: UNet3D(filters=(4, 8), num_classes=data.net_facts()["num_classes"]),
        validation_input_shape=CROP,
    )
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    module.check_net(num_classes=classes)
    names = {f"val/dice_{number}" for number in range(1, classes)}
    assert {key for key in trainer.callback_metrics if key.startswith("val/dice")} == names
    scores = [float(trainer.callback_metrics[name]) for name in names]
    assert float(trainer.callback_metrics["val/mean_dice"]) == pytest.approx(np.mean(scores))


@pytest.fixture
def benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A raw root of four cases that the datamodule takes for the whole of KiTS19."""
    monkeypatch.setattr(kits19, "kits19_split", lambda: SPLIT)
    return write_raw(tmp_path / "kits19")


def test_benchmarks_own_cases_do_not_differ(benchmark: Path, tmp_path: Path) -> None:
    data = own(benchmark)
    assert data.differences() == []
    assert data.net_facts()["num_classes"] == 3  # known beforehand
    data.prepare()
    assert data.differences() == []
    assert data.class_names == ("kidney", "tumour")
    chosen = tmp_path / "evaluation.txt"
    chosen.write_text("00001\n")
    assert own(benchmark, evaluation_cases=chosen).differences() == [
        "1 evaluation cases of your own choice instead of its 1"
    ]


def test_missing_and_further_cases_differ(benchmark: Path) -> None:
    write_case(benchmark, "00211")
    assert own(benchmark).differences() == []  # the reference leaves 210 and above out
    (benchmark / "case_00001").rename(benchmark / "case_mine")
    assert own(benchmark).differences() == [
        "6 cases instead of its 4: case_00001 is missing, "
        "3 cases (00210, 00211, mine) are not among them"
    ]


def test_another_number_of_classes_under_kits19s_names_differs(benchmark: Path) -> None:
    label = np.zeros((5, 9, 7), np.uint8)
    label[0, 0, 0] = 3
    save_nifti(benchmark / "case_00001" / "segmentation.nii.gz", label)
    data = own(benchmark)
    data.prepare()
    assert data.differences() == ["4 classes instead of its 3"]
    assert data.class_names == ("1", "2", "3")


def test_other_data_under_kits19s_names_is_told_by_its_checksums(
    benchmark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = {f"case_{case}_y.npy": "0" * 32 for case in SPLIT.cases}
    monkeypatch.setattr(kits19, "REFERENCE_CROP", CROP)
    monkeypatch.setattr(kits19, "reference_checksums", lambda: sums)
    data = own(benchmark)
    data.prepare()
    assert data.differences() == [
        "labels that differ from the published ones in 4 cases (00000, 00001, 00002, 00003)"
    ]
    assert data.class_names == ("1", "2")


def test_doctor_names_raw_data_that_changed_and_damage(benchmark: Path) -> None:
    data = own(benchmark)
    data.prepare()
    changed = benchmark / "case_00001" / "imaging.nii.gz"
    changed.write_bytes(changed.read_bytes() + b"x")
    assert own(benchmark).problems() == [
        f"{changed} changed since it was prepared; run the recipe's prepare command"
    ]


@pytest.mark.parametrize("part", ["x", "y"])
def test_prepare_finds_a_flipped_byte_and_fit_another_size(
    benchmark: Path, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    own(benchmark).prepare()
    path = benchmark / "finishline-unet3d-8x8x8" / f"case_00002_{part}.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    own(benchmark).prepare()
    assert f"{path} changed since it was written; preparing it again" in capsys.readouterr().out
    assert path.read_bytes() == whole
    path.write_bytes(whole + b"x")
    own(benchmark).prepare_data()
    line = f"{path} has {len(whole) + 1} of {len(whole)} bytes; preparing it again"
    assert line in capsys.readouterr().err
    assert path.read_bytes() == whole


def test_file_prepared_elsewhere_that_changes_is_named(benchmark: Path) -> None:
    own(benchmark).prepare()
    out = benchmark / "finishline-unet3d-8x8x8"
    own(out).prepare()
    path = out / "case_00002_x.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="case_00002_x.npy: this case changed since it was che"):
        own(out).prepare()


def test_folders_that_cannot_be_read_are_named(
    benchmark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (benchmark / "case_00003").rename(benchmark / "elsewhere")
    (benchmark / "case_00003").symlink_to("/nowhere")
    assert "imaging.nii.gz is missing in case_00003" in own(benchmark).problems()[0]

    def stale(path: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle", os.fspath(path))  # type: ignore[call-overload]

    monkeypatch.setattr("os.scandir", stale)
    assert own(benchmark).problems() == [f"{benchmark}: cannot be read (Stale file handle)"]
