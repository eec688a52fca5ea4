"""SSD and Mask R-CNN end to end: closed logs, short runs, ranks, resume, other nets."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from datamodules.coco import COCO300DataModule, COCOMaskDataModule
from modules.detection.maskrcnn import MaskRCNNModule
from modules.detection.ssd import SSDModule
from modules.detection.ssd.net import SSD300
from recipes import maskrcnn, ssd
from recipes.cli.main import run
from tests.closed_log import compliance, write_log

ROOT = Path(__file__).parents[2]
CPU = ["--trainer.accelerator", "cpu"]
SHEETS = {"ssd": ssd.BENCHMARK, "maskrcnn": maskrcnn.BENCHMARK}
COUNTS = {
    "train": {"images": 118_287, "annotated_images": 117_266, "images_with_usable_box": 117_266},
    "val": {"images": 5_000},
}
FEW = ["--trainer.limit_train_batches", "5", "--trainer.limit_val_batches", "4"]
ONE = [*FEW, "--evaluation.first", "1", "--evaluation.every", "1", "--evaluation.limit", "1"]


def demo(stem):
    return ["--config", str(ROOT / f"recipes/presets/{stem}/demo.yaml")]


def fit(stem, tmp_path, *extra):
    args = ["fit", *demo(stem), *CPU, "--output_root", str(tmp_path), "--seed_everything", "5"]
    status = run(SHEETS[stem], [*args, *extra])
    folders = sorted((tmp_path / stem).glob("*")) if (tmp_path / stem).exists() else []
    return status, folders[-1] if folders else None


def record(folder):
    return json.loads((folder / "run.json").read_text())


def losses(folder):
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    return {int(row["step"]): row["train/loss"] for row in rows}


def closed_facts(stem):
    """Facts of a closed run on COCO's real counts, without the data."""
    kinds = {
        "ssd": (SSDModule, COCO300DataModule),
        "maskrcnn": (MaskRCNNModule, COCOMaskDataModule),
    }
    module, data = (kind() for kind in kinds[stem])
    data._facts = COUNTS
    module._trainer = SimpleNamespace(datamodule=data)
    return module.mllog_facts(), data.mllog_facts()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("stem", SHEETS)
def test_closed_log_passes_the_official_checker(stem, late, tmp_path):
    module, data = closed_facts(stem)
    assert data["train_samples"] == 117_266
    assert data["eval_samples"] == 5_000
    facts = {"module_facts": module, "data_facts": data}
    path = write_log(tmp_path, SHEETS[stem], **facts, late=late)
    valid, messages = compliance(path)
    assert valid, messages
    if stem == "maskrcnn":
        assert '{"BBOX": 0.377, "SEGM": 0.339}' in path.read_text()


@pytest.mark.parametrize(
    ("stem", "missing"), [("ssd", "max_samples"), ("maskrcnn", "num_image_candidates")]
)
def test_closed_log_without_a_required_key_is_rejected(stem, missing, tmp_path):
    module, data = closed_facts(stem)
    facts = {k: v for k, v in module.items() if k != missing}
    data = {k: v for k, v in data.items() if k != missing}
    valid, messages = compliance(
        write_log(tmp_path, SHEETS[stem], module_facts=facts, data_facts=data)
    )
    assert not valid
    assert any(missing in message for message in messages)


def test_mask_rcnn_needs_both_targets_in_the_same_evaluation(tmp_path):
    module, data = closed_facts("maskrcnn")
    script = {"box_ap": [0.378, 0.376], "mask_ap": [0.338, 0.340]}
    path = write_log(tmp_path, SHEETS["maskrcnn"], module_facts=module, data_facts=data,
                     quality=script)  # fmt: skip
    assert '"status": "aborted"' in path.read_text()
    assert not compliance(path)[0]


@pytest.mark.parametrize("stem", SHEETS)
def test_reached_target_leaves_every_file_and_a_picture(stem, tmp_path):
    easy = json.dumps(dict.fromkeys(SHEETS[stem].metrics, 0.0))
    status, folder = fit(stem, tmp_path, *ONE, "--target.metrics", easy)
    assert status == 0
    names = "config.yaml result.txt run.json metrics.csv curve.png detections.png"
    found = {p.name for p in folder.iterdir() if p.is_file()}
    assert found == set(names.split())
    facts = record(folder)
    assert (facts["demo"], facts["division"], facts["status"]) == (True, "open", "success")
    assert set(facts["quality"]) == set(SHEETS[stem].metrics)


@pytest.mark.slow
@pytest.mark.parametrize("stem", SHEETS)
def test_a_score_beside_training_is_the_same_and_stops_the_run_within_an_epoch(stem, tmp_path):
    two = [*FEW, "--evaluation.first", "1", "--evaluation.every", "1", "--evaluation.limit", "2"]
    _, plain = fit(stem, tmp_path / "plain", *two)
    late = ["--model.overlap_evaluation", "true"]
    status, overlapped = fit(stem, tmp_path / "overlapped", *two, *late)
    assert status == 3
    assert record(overlapped)["quality"] == record(plain)["quality"]
    easy = json.dumps(dict.fromkeys(SHEETS[stem].metrics, 0.0))
    status, early = fit(stem, tmp_path / "early", *two, *late, "--target.metrics", easy)
    assert status == 0
    facts = record(early)
    assert (facts["status"], facts["evaluations"]) == ("success", 1)
    assert facts["seconds_to_target"] > facts["seconds"]["eval"]
    assert (early / "checkpoints" / "last.ckpt").is_file()
    assert (early / "detections.png").is_file()
    with (early / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["val/box_ap"]]
    assert [int(row["step"]) for row in rows] == [5]


def test_a_score_beside_training_needs_one_device():
    module = SSDModule(overlap_evaluation=True)
    module._trainer = SimpleNamespace(world_size=2)
    with pytest.raises(ValueError, match="overlap_evaluation works on one device only"):
        module._start_late_scores()


@pytest.mark.slow
@pytest.mark.parametrize("stem", SHEETS)
def test_resumed_run_trains_on_as_if_never_stopped(stem, tmp_path):
    every = [*FEW, "--trainer.log_every_n_steps", "1", "--checkpoint.every_seconds", "0"]
    every += ["--evaluation.first", "2", "--evaluation.every", "2"]
    _, whole = fit(stem, tmp_path / "whole", *every, "--evaluation.limit", "2")
    _, half = fit(
        stem, tmp_path / "half", *every, "--evaluation.limit", "2", "--trainer.max_epochs", "1"
    )
    last = half / "checkpoints" / "last.ckpt"
    # The settings of the run that is continued hold, so also where it was to stop.
    more = ["--evaluation.limit", "2", "--ckpt_path", str(last), "--trainer.max_epochs=-1"]
    _, resumed = fit(stem, tmp_path / "rest", *every, *more)
    expected, after = losses(whole), losses(resumed)
    assert after
    assert {step: expected[step] for step in after} == after
    assert record(resumed)["quality"] == record(whole)["quality"]


@pytest.mark.slow
@pytest.mark.parametrize("stem", SHEETS)
def test_two_ranks_evaluate_exactly_like_one(stem, tmp_path):
    # A limit on evaluation batches is one per rank, so it would change what two ranks see.
    _, folder = fit(stem, tmp_path, *ONE, "--trainer.limit_val_batches", "1.0")
    checkpoint = str(folder / "checkpoints" / "last.ckpt")
    figures = []
    for devices in ("1", "2"):
        command = [sys.executable, f"recipes/{stem}.py", "validate", "--ckpt_path", checkpoint]
        command += [*CPU, "--trainer.devices", devices, "--trainer.strategy", "ddp"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 3, done.stderr
        figures.append([line for line in done.stdout.splitlines() if "_ap" in line])
    assert figures[0] == figures[1]
    assert len(figures[0]) >= 3


NETS = {
    "ssd": "modules.detection.torchvision_detectors.TorchvisionSSD",
    "maskrcnn": "modules.detection.torchvision_detectors.TorchvisionMaskRCNN",
}


@pytest.mark.slow
@pytest.mark.parametrize("stem", SHEETS)
def test_torchvision_detector_swaps_in(stem, tmp_path):
    args = [f"--config={demo(stem)[1]}", *CPU, "--output_root", str(tmp_path), *ONE]
    args += ["--trainer.limit_val_batches", "1"]
    args += ["--data.batch_size", {"ssd": "2", "maskrcnn": "1"}[stem]]
    model = {"ssd": "ssdlite320_mobilenet_v3_large", "maskrcnn": "maskrcnn_resnet50_fpn_v2"}[stem]
    config = tmp_path / "net.yaml"
    config.write_text(
        f"model:\n  net:\n    class_path: {NETS[stem]}\n    init_args:\n      num_classes: 4\n"
        f"      model: {model}\n"
    )
    assert run(SHEETS[stem], ["fit", *args, "--config", str(config)]) == 3
    facts = record(next((tmp_path / stem).glob("*")))
    assert facts["net"]["class"] == NETS[stem]
    assert facts["division"] == "open"


@pytest.mark.parametrize("net", [[], ["--model.net", NETS["ssd"]]])
def test_network_with_other_classes_than_the_data_is_refused(net, tmp_path, capsys):
    """Before the clock; COCO has 81 with background, the demo 4."""
    status, _ = fit("ssd", tmp_path, *net, "--model.net.num_classes", "81")
    assert status == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "81 classes including background, the data has 3 categories" in line
    assert "--model.net.num_classes 4" in line


@pytest.mark.demo
@pytest.mark.parametrize("stem", SHEETS)
def test_shuffled_classes_do_not_reach_the_target(stem, tmp_path, monkeypatch):
    """Boxes are right, names are drawn at random: the AP of a class must stay low."""
    from datamodules.coco import mask_images as coco_mask_images
    from datamodules.coco import ssd_images as coco_ssd_images

    images = {"ssd": coco_ssd_images, "maskrcnn": coco_mask_images}[stem].TrainingImages
    original = images.__getitem__

    def shuffled(self, key):
        sample = original(self, key)
        g = torch.Generator().manual_seed(key.index)
        return sample | {"labels": torch.randint(1, 4, sample["labels"].shape, generator=g)}

    monkeypatch.setattr(images, "__getitem__", shuffled)
    epochs = {"ssd": "15", "maskrcnn": "6"}[stem]  # enough to reach it with the right names
    status, folder = fit(stem, tmp_path, "--evaluation.first", epochs, "--evaluation.limit", epochs)
    assert status == 3
    facts = record(folder)
    assert facts["quality"]["box_ap"] < SHEETS[stem].metrics["box_ap"]


@pytest.mark.parametrize(
    ("stem", "flags", "words"),
    [
        ("ssd", ["--data.crop_attempts", "7"], "max_samples is 1 or 50"),
        ("ssd", ["--model.decay_boundary_epochs", "[40, 55]"], "decay_boundary_epochs"),
        ("maskrcnn", ["--data.min_image_size", "600"], "fixed at 800"),
        ("maskrcnn", ["--model.learning_rate", "0.03"], "0.02 times a whole number"),
    ],
)
def test_declaring_closed_against_a_rule_is_refused(stem, flags, words, tmp_path, capsys):
    args = ["fit", "--data.root", str(tmp_path), "--submission.division", "closed", *flags]
    assert run(SHEETS[stem], args) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("stem", SHEETS)
def test_own_data_of_other_classes_trains_in_the_open_division_only(stem, tmp_path, capsys):
    """Four categories, no masks of crowds, another layout; the starting weights are the demo's."""
    from datamodules.coco.demo import write_scenes

    root = tmp_path / "own"
    root.mkdir()
    write_scenes(root, image_size=64, num_train=4, num_val=2)
    for split in ("train", "val"):
        path = root / "annotations" / f"instances_{split}2017.json"
        content = json.loads(path.read_text())
        content["categories"].append({"id": 4, "name": "star"})
        content["annotations"] = [a for a in content["annotations"] if not a.pop("iscrowd")]
        [(a.pop("area"), a.pop("id")) for a in content["annotations"]]
        path.write_text(json.dumps(content))
    assert run(SHEETS[stem], ["prepare", "--data.root", str(root)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "4 categories" in out
    assert "not the benchmark's COCO 2017: 4 categories instead of 80" in out
    assert run(SHEETS[stem], ["doctor", "--data.root", str(root)]) == 1
    small = {"pyramid_channels": 16, "box_features": 16, "mask_channels": 8, "proposals": 50}
    nets = {"ssd": {"width": 8}, "maskrcnn": {"width": 16, **small}}
    args = ["fit", "--data.root", str(root), *CPU, "--output_root", str(tmp_path), *ONE,
            "--data.batch_size", "2"]  # fmt: skip
    args += [f"--model.net.{name}={value}" for name, value in nets[stem].items()]
    if stem == "ssd":
        torch.save(SSD300(width=8).backbone.state_dict(), root / "resnet34-333f7ec4.pth")
    else:
        demo_data = COCOMaskDataModule()
        demo_data.prepare_data()
        shutil.copy(demo_data.folder / "R-50.pkl", root)
        args += ["--data.min_image_size", "64", "--data.max_image_size", "96"]
        args += ["--model.warmup_steps", "1", "--model.decay_steps", "[9, 12]"]
    args += ["--submission.division", "open"]  # the data hand over their number of classes
    assert run(SHEETS[stem], args) == 3
    facts = record(sorted((tmp_path / stem).glob("*"))[-1])
    assert (facts["division"], facts["demo"]) == ("open", False)


@pytest.mark.parametrize("stem", SHEETS)
def test_run_without_pretrained_weights_says_where_to_get_them(stem, tmp_path, capsys):
    from datamodules.coco.demo import write_scenes

    write_scenes(tmp_path, image_size=64, num_train=4, num_val=2)
    args = ["fit", "--data.root", str(tmp_path), *CPU, "--output_root", str(tmp_path / "runs")]
    args += ["--data.batch_size", "1", "--trainer.accumulate_grad_batches", "1"]
    assert run(SHEETS[stem], ["prepare", "--data.root", str(tmp_path)]) == 0
    needed = capsys.readouterr().out.partition("Training also needs ")[2].partition(",")[0]
    run(SHEETS[stem], ["doctor", "--data.root", str(tmp_path)])
    assert f"note   Training also needs {needed}" in capsys.readouterr().out
    assert run(SHEETS[stem], [*args, "--submission.division", "open"]) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"error: {needed} is missing")
    assert "is missing: the backbone starts from ImageNet weights; download https://" in message
