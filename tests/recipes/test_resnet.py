"""ResNet-50 end to end: closed logs, short runs, foreign nets, shuffled labels, shards = files."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from datamodules.imagenet import ImageNetDataModule
from datamodules.imagenet import prepare as builder
from datamodules.imagenet import samples as imagenet_samples
from modules.resnet import ResNetModule
from recipes.cli.main import run
from recipes.resnet import BENCHMARK, power_of_two_decay
from tests.closed_log import compliance, write_log
from tests.datamodules.imagenet.tiny_imagenet import COUNTS, write_tiny

ROOT = Path(__file__).parents[2]
DEMO = ["--config", str(ROOT / "recipes/presets/resnet/demo.yaml")]
CPU = ["--trainer.accelerator", "cpu"]
TINY_NET = ["--model.net.width", "4", "--model.net.blocks", "[1,1,1,1]"]
SHORT = ["--evaluation.first", "2", "--evaluation.limit", "2"]
TINY_DATA = ["--data.num_classes", "10", "--data.num_train", "130", "--data.num_val", "30"]


def fit(folder: Path, *extra: str) -> tuple[int, Path]:
    """A short run in this process; its exit status and folder."""
    args = ["fit", *DEMO, *CPU, "--output_root", str(folder), "--seed_everything", "5", *extra]
    status = run(BENCHMARK, args)
    return status, sorted((folder / "resnet").glob("*"))[-1]


def record(folder: Path) -> dict[str, object]:
    return json.loads((folder / "run.json").read_text())


def closed_facts(optimizer: str) -> tuple[dict[str, object], dict[str, object]]:
    """Facts of both sides under the defaults, on one device with accumulation over 8 steps."""
    counts = {"num_classes": 1000, "num_train": 1_281_167, "num_val": 50_000}
    data = ImageNetDataModule(root=Path("/data/imagenet"), **counts)  # type: ignore[arg-type]
    trainer = SimpleNamespace(
        world_size=1, global_rank=0, accumulate_grad_batches=8, datamodule=data
    )
    data.trainer = trainer  # type: ignore[assignment]
    module = ResNetModule(optimizer=optimizer, net=lambda: torch.nn.Linear(1, 1))  # type: ignore[arg-type]
    module.trainer = trainer  # type: ignore[assignment]
    return module.mllog_facts(), data.mllog_facts()


@pytest.mark.parametrize("optimizer", ["lars", "sgd"])
def test_closed_log_passes_the_official_checker(tmp_path: Path, optimizer: str) -> None:
    module, data = closed_facts(optimizer)
    path = write_log(tmp_path, BENCHMARK, module_facts=module, data_facts=data)
    valid, messages = compliance(path)
    # 5e-5 is 1e-4 * 2^-1; both variants have every key that the checker wants.
    assert valid, messages


@pytest.mark.parametrize(
    ("optimizer", "missing"),
    [
        ("lars", "lars_epsilon"),
        ("lars", "lars_opt_learning_rate_warmup_epochs"),
        ("sgd", "opt_learning_rate_warmup_epochs"),
        ("sgd", "model_bn_span"),
    ],
)
def test_closed_log_without_a_required_key_is_rejected(
    tmp_path: Path, optimizer: str, missing: str
) -> None:
    module, data = closed_facts(optimizer)
    del module[missing]
    path = write_log(tmp_path, BENCHMARK, module_facts=module, data_facts=data)
    valid, messages = compliance(path)
    assert not valid
    assert any(missing in message for message in messages)


def test_short_run_ends_at_its_limit_with_a_log(tmp_path: Path) -> None:
    status, folder = fit(tmp_path, *TINY_NET, *SHORT)
    assert status == 3
    facts = record(folder)
    assert facts["demo"] is True
    assert facts["epochs"] == 2
    assert facts["samples"] == 2 * 1024
    assert (folder / "predictions.png").is_file()
    assert '"lars_opt_base_learning_rate", "value": 2.0' in (folder / "result.txt").read_text()


@pytest.mark.slow
def test_two_ranks_evaluate_exactly_like_one(tmp_path: Path) -> None:
    root = write_tiny(tmp_path / "data")  # 30 evaluation images: 15 for each of two ranks
    tiny = [*TINY_NET, *TINY_DATA, "--data.root", str(root), "--data.evaluation_batch_size", "4"]
    _, folder = fit(tmp_path, *tiny, *SHORT)
    checkpoint, figures = str(folder / "checkpoints" / "last.ckpt"), []
    for devices in ("1", "2"):
        command = [sys.executable, "recipes/resnet.py", "validate", "--ckpt_path", checkpoint]
        command += [*CPU, "--trainer.devices", devices, "--trainer.strategy", "ddp"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 3, done.stderr
        figures.append([line for line in done.stdout.splitlines() if "accuracy" in line])
    assert figures[0] == figures[1]
    assert figures[0]


def test_shards_and_files_train_and_evaluate_alike_to_the_last_digit(tmp_path: Path) -> None:
    root = write_tiny(tmp_path / "data")
    builder.write_all_shards(root, tmp_path / "shards", COUNTS, processes=1, samples_per_shard=50)
    common = [*TINY_NET, *TINY_DATA, *SHORT, "--trainer.log_every_n_steps", "1"]
    runs = [
        fit(tmp_path / kind, *common, "--data.root", str(folder))[1]
        for kind, folder in (("files", root), ("tars", tmp_path / "shards"))
    ]
    assert record(runs[0])["quality"] == record(runs[1])["quality"]
    losses = [
        [line.split(",")[-1] for line in (folder / "metrics.csv").read_text().splitlines()]
        for folder in runs
    ]
    assert len(losses[0]) > 10
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    "net", ["torchvision.models.resnext50_32x4d", "timm.models.resnet.resnet18d"]
)
def test_foreign_net_by_dotted_path_runs_in_the_open_division(tmp_path: Path, net: str) -> None:
    pytest.importorskip(net.partition(".")[0])
    root = write_tiny(tmp_path / "data")
    args = ["fit", *CPU, "--model.net", net, "--data.root", str(root), *TINY_DATA]
    args += ["--data.image_size", "32", "--data.batch_size", "65", "--evaluation.first", "1"]
    args += ["--evaluation.limit", "1", "--trainer.accumulate_grad_batches", "1"]
    assert run(BENCHMARK, [*args, "--output_root", str(tmp_path)]) == 3
    facts = record(next((tmp_path / "resnet").glob("*")))
    assert facts["net"]["class"] == net
    assert facts["net"]["arguments"]["num_classes"] == 10
    assert facts["division"] == "open"


@pytest.mark.slow
def test_shuffled_labels_do_not_reach_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = imagenet_samples.TrainingImages.__getitems__

    def shuffled(self, keys):  # type: ignore[no-untyped-def]
        batch = original(self, keys)
        order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
        return batch | {"label": order[batch["index"]] % 10}

    monkeypatch.setattr(imagenet_samples.TrainingImages, "__getitems__", shuffled)
    status, folder = fit(tmp_path, "--model.net.width", "8", "--evaluation.limit", "6")
    assert status == 3
    assert record(folder)["quality"]["accuracy"] < 0.35  # type: ignore[index]


def test_weight_decay_rule_allows_powers_of_two_only() -> None:
    assert all(power_of_two_decay(1e-4 * 2.0**n) for n in range(-5, 6))
    assert power_of_two_decay(5e-5)
    assert not any(power_of_two_decay(bad) for bad in (0.0, 3e-5, 2e-3, 1.01e-4))
    assert math.log2(5e-5 / 1e-4) == -1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model.label_smoothing", "0.2"], "label smoothing is 0 or 0.1"),
        (["--model.weight_decay", "3e-5"], "weight decay is 0.0001"),
        (["--data.image_size", "192"], "images are 224 pixels"),
        (["--data.num_train", "1000"], "1,281,167 training images"),
    ],
)
def test_declaring_closed_against_a_rule_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    args = ["fit", "--data.root", str(tmp_path), "--submission.division", "closed", *flags]
    assert run(BENCHMARK, args) == 2
    assert words in capsys.readouterr().err


def test_own_images_are_refused_by_a_closed_run_and_trained_on_in_the_open_division(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_tiny(tmp_path / "data")
    args = ["fit", *CPU, "--data.root", str(root), "--output_root", str(tmp_path)]
    assert run(BENCHMARK, args) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "10 classes instead of 1,000; 130 training images instead of 1,281,167" in error
    small = ["--data.image_size", "32", "--data.batch_size", "65", "--evaluation.first", "1"]
    small += ["--evaluation.limit", "1", "--trainer.accumulate_grad_batches", "1"]
    small += ["--model.net.num_classes", "10", "--model.net.width", "8"]
    assert run(BENCHMARK, [*args, "--submission.division", "open", *small]) == 3
    assert record(next((tmp_path / "resnet").glob("*")))["division"] == "open"
