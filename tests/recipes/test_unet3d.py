"""3D U-Net end to end: closed log, resume after SIGKILL, two ranks, foreign nets."""

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from datamodules.kits19 import KiTS19DataModule
from modules.unet3d import UNet3DModule
from recipes.cli.main import run
from recipes.unet3d import BENCHMARK
from tests.closed_log import compliance, write_log

ROOT = Path(__file__).parents[2]
DEMO = ["--config", str(ROOT / "recipes/presets/unet3d/demo.yaml")]
CPU = ["--trainer.accelerator", "cpu"]


def fit(tmp_path, *extra):
    """A short run in this process; returns exit status and the run folder."""
    args = ["fit", *DEMO, *CPU, "--output_root", str(tmp_path), "--seed_everything", "5", *extra]
    status = run(BENCHMARK, args)
    folders = sorted((tmp_path / "unet3d").glob("*")) if (tmp_path / "unet3d").exists() else []
    return status, folders[-1] if folders else None


def record(folder):
    return json.loads((folder / "run.json").read_text())


def start(tmp_path, *extra):
    """A run in a process of its own."""
    command = [sys.executable, "recipes/unet3d.py", "fit", *extra, *CPU]
    return subprocess.Popen(
        [*command, "--output_root", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def losses(folder):
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    return {int(row["step"]): row["train/loss"] for row in rows}


def closed_facts():
    data = KiTS19DataModule(root=Path("/data/kits19"))
    return UNet3DModule().mllog_facts(), data.mllog_facts()


def test_closed_log_passes_the_official_checker(tmp_path):
    module, data = closed_facts()
    path = write_log(tmp_path, BENCHMARK, module_facts=module, data_facts=data)
    valid, messages = compliance(path)
    assert valid, messages


@pytest.mark.parametrize("missing", ["opt_momentum", "validation_overlap"])
def test_closed_log_without_a_required_key_is_rejected(tmp_path, missing):
    module, data = closed_facts()
    del module[missing]
    valid, messages = compliance(
        write_log(tmp_path, BENCHMARK, module_facts=module, data_facts=data)
    )
    assert not valid
    assert any(missing in message for message in messages)


def test_closed_log_below_the_target_is_rejected(tmp_path):
    module, data = closed_facts()
    script = {"mean_dice": [0.9079]}
    path = write_log(tmp_path, BENCHMARK, module_facts=module, data_facts=data, quality=script)
    assert not compliance(path)[0]
    assert '"status": "aborted"' in path.read_text()


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    """A run of one epoch: its status, its folder and what it printed."""
    root, out = tmp_path_factory.mktemp("a folder"), StringIO()
    every = ["--evaluation.limit", "1", "--evaluation.first", "1", "--trainer.log_every_n_steps"]
    with redirect_stdout(out):
        status, folder = fit(root, *every, "1")
    return status, folder, out.getvalue()


def test_short_run_leaves_every_file_and_says_why_it_ended(short_run, tmp_path, capsys):
    status, folder, printed = short_run
    assert status == 3
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    names = "config.yaml result.txt run.json metrics.csv curve.png checkpoints/last.ckpt"
    assert found == {*names.split(), "predictions.png"}
    facts = record(folder)
    assert facts["status"] == "aborted"
    assert facts["stop_reason"] == "BUDGET_EXHAUSTED"
    assert facts["seconds_to_target"] is None
    assert (facts["demo"], facts["division"]) == (True, "open")
    assert facts["samples"] == 14
    assert facts["seconds"]["total"] == pytest.approx(
        facts["seconds"]["train"] + facts["seconds"]["eval"]
    )
    assert facts["flops_per_sample"] > 1e8
    last = printed.strip().splitlines()[-1]
    assert "target not reached" in last
    assert str(folder) in last
    assert all(line.startswith(":::MLLOG") for line in (folder / "result.txt").open())
    # Nothing is left to train on: Lightning then calls no hook, but the run must still end.
    again = ["--output_root", str(tmp_path / "again")]
    status = run(BENCHMARK, ["fit", "--ckpt_path", str(folder), *again])
    assert status == 3
    resumed = next((tmp_path / "again" / "unet3d").glob("*"))
    facts = record(resumed)
    assert (facts["status"], facts["stop_reason"]) == ("RESUMED", "BUDGET_EXHAUSTED")
    assert (facts["epochs"], facts["samples"]) == (1, 14)
    assert {"curve.png", "metrics.csv"} <= {path.name for path in resumed.iterdir()}
    assert "raise --evaluation.limit to train further" in " ".join(capsys.readouterr().out.split())


def test_reached_target_gives_status_0_and_a_log_that_passes_as_open(tmp_path, capsys):
    easy = ["--target.metrics", '{"mean_dice": 0.05}', "--evaluation.first", "1"]
    status, folder = fit(tmp_path, *easy)
    assert status == 0
    facts = record(folder)
    assert facts["status"] == "success"
    assert facts["seconds_to_target"] == facts["seconds"]["total"] > 0
    valid, messages = compliance(folder / "result.txt")
    assert valid, messages
    assert "target reached" in capsys.readouterr().out


def test_config_of_a_run_runs_again_with_the_same_losses(short_run, tmp_path):
    first = short_run[1]
    header = (first / "config.yaml").read_text().splitlines()[0]
    again = shlex.split(header.partition("recipes/unet3d.py ")[2])
    assert run(BENCHMARK, [*again, "--output_root", str(tmp_path / "b")]) == 3
    second = next((tmp_path / "b" / "unet3d").glob("*"))
    assert losses(first) == losses(second)
    assert len(losses(first)) == 7


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_equals_uninterrupted(tmp_path):
    base = [*DEMO, "--seed_everything", "5", "--trainer.log_every_n_steps", "1"]
    base += ["--checkpoint.every_seconds", "0", "--evaluation.every", "3"]
    base += ["--evaluation.first", "3", "--evaluation.limit", "6"]
    assert run(BENCHMARK, ["fit", *base, *CPU, "--output_root", str(tmp_path / "whole")]) == 3
    whole = losses(next((tmp_path / "whole" / "unet3d").glob("*")))
    killed = start(tmp_path / "cut", *base)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "cut").glob("unet3d/*/checkpoints/last.ckpt")):
        assert time.monotonic() < deadline
        assert killed.poll() is None, killed.stderr.read()
        time.sleep(0.05)
    time.sleep(0.3)  # somewhere inside a later epoch
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    args = ["fit", "--ckpt_path", "last", "--output_root", str(tmp_path / "cut"), *CPU]
    assert run(BENCHMARK, args) == 3
    folders = sorted((tmp_path / "cut" / "unet3d").glob("*"))
    resumed = next(f for f in folders if record(f)["resumed"])
    after = losses(resumed)
    assert after
    assert {step: whole[step] for step in after} == after
    assert max(after) == max(whole)
    facts = record(resumed)
    assert facts["status"] == "RESUMED"
    assert facts["seconds_to_target"] is None
    assert facts["samples"] == 84
    # The clock may not be paused, so the official checker must refuse a resumed run's log.
    assert not compliance(resumed / "result.txt")[0]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_process_says_so_and_leaves_a_checkpoint(tmp_path, number):
    root = tmp_path / "my runs"
    process = start(root, *DEMO, "--evaluation.first", "100")
    deadline = time.monotonic() + 120
    while not list(root.glob("unet3d/*/checkpoints/last.ckpt")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in out.strip().splitlines()[-1]
    assert f"--ckpt_path last --output_root '{root}'" in out, "to be pasted into a shell"
    folder = next((root / "unet3d").glob("*"))
    facts = record(folder)
    assert (facts["status"], facts["stop_reason"]) == ("aborted", "INTERRUPTED")
    assert '"status": "aborted"' in (folder / "result.txt").read_text()
    assert (folder / "curve.png").is_file()


@pytest.mark.slow
def test_two_ranks_evaluate_exactly_like_one(tmp_path, capsys):
    _, folder = fit(tmp_path, "--evaluation.first", "1", "--evaluation.limit", "1")
    checkpoint = str(folder / "checkpoints" / "last.ckpt")
    figures = []
    for devices in ("1", "2"):
        command = [sys.executable, "recipes/unet3d.py", "validate", "--ckpt_path", checkpoint]
        command += [*CPU, "--trainer.devices", devices, "--trainer.strategy", "ddp"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 3, done.stderr
        figures.append([line for line in done.stdout.splitlines() if "dice" in line])
    assert figures[0] == figures[1]
    assert len(figures[0]) >= 3


@pytest.mark.slow
def test_two_ranks_train_on_the_same_global_batches_as_one(tmp_path):
    short = [*DEMO, "--evaluation.first", "2", "--evaluation.limit", "2", "--seed_everything", "5"]
    short += ["--trainer.log_every_n_steps", "1"]
    two = start(tmp_path / "2", *short, "--data.batch_size", "1", "--trainer.devices", "2",
                "--trainer.strategy", "ddp")  # fmt: skip
    _, err = two.communicate(timeout=300)
    assert two.returncode == 3, err
    assert run(BENCHMARK, ["fit", *short, *CPU, "--output_root", str(tmp_path / "1")]) == 3
    one = record(next((tmp_path / "1" / "unet3d").glob("*")))
    both = record(next((tmp_path / "2" / "unet3d").glob("*")))
    assert one["global_batch_size"] == both["global_batch_size"] == 2
    assert one["samples"] == both["samples"] == 28
    assert both["devices"] == 2
    assert len(list((tmp_path / "2" / "unet3d").glob("*"))) == 1
    # The mean over ranks of per-sample losses has another rounding than one batch of two.
    assert both["quality"]["mean_dice"] == pytest.approx(one["quality"]["mean_dice"], abs=0.02)


class SlowEnd(Callback):
    """Keeps rank 0 busy for longer than the launcher lets it live after another's failure."""

    def on_train_end(self, trainer, pl_module):
        if trainer.is_global_zero:
            time.sleep(7)


@pytest.mark.slow
def test_rank_0_may_take_its_time_to_write_the_record(tmp_path):
    short = [*DEMO, "--evaluation.first", "1", "--evaluation.limit", "1"]
    short += ["--trainer.callbacks", "tests.recipes.test_unet3d.SlowEnd"]
    process = start(tmp_path, *short, "--trainer.devices", "2", "--trainer.strategy", "ddp")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 3, err
    assert record(next((tmp_path / "unet3d").glob("*")))["status"] == "aborted"


@pytest.mark.slow
def test_fsdp2_starts(tmp_path):
    short = [*DEMO, "--evaluation.first", "1", "--evaluation.limit", "1"]
    process = start(tmp_path, *short, "--trainer.devices", "2", "--trainer.strategy", "fsdp2")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 3, err


class TinyNet(torch.nn.Module):
    """A foreign net for the tests below: two convolutions."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv3d(1, width, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv3d(width, 3, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def test_foreign_net_by_dotted_path_runs_in_the_open_division(tmp_path):
    net = ["--model.net", "tests.recipes.test_unet3d.TinyNet", "--model.net.width", "6"]
    status, folder = fit(tmp_path, *net, "--evaluation.first", "1", "--evaluation.limit", "1")
    assert status == 3
    facts = record(folder)
    assert facts["net"]["class"] == "tests.recipes.test_unet3d.TinyNet"
    assert facts["net"]["arguments"] == {"width": 6}
    assert facts["parameters"] == 6 * 27 + 6 + 6 * 3 + 3
    assert facts["division"] == "open"
    assert '"submission_division", "value": "open"' in (folder / "result.txt").read_text()


@pytest.mark.parametrize("classes", ["2", "4"])
def test_foreign_net_of_another_shape_is_refused_before_training(tmp_path, capsys, classes):
    net = ["--model.net", "monai.networks.nets.SegResNet", "--model.net.spatial_dims", "3"]
    status, folder = fit(tmp_path, *net, "--model.net.out_channels", classes)
    assert (status, folder) == (1, None)
    assert f"(1, {classes}, 32, 32, 32)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model.net", "tests.recipes.test_unet3d.TinyNet"], "model.net"),
        (["--data.oversampling", "0.5"], "training_oversampling is fixed"),
        (["--target.metrics", '{"mean_dice": 0.8}'], "target.metrics"),
        (["--evaluation.every", "100000"], "evaluation schedule"),
        (["--trainer.limit_val_batches", "3"], "whole evaluation set"),
    ],
)
def test_declaring_closed_against_a_rule_is_refused(tmp_path, capsys, flags, words):
    args = ["fit", "--data.root", str(tmp_path), "--submission.division", "closed", *flags]
    assert run(BENCHMARK, args) == 2
    assert words in capsys.readouterr().err


def test_checkpoint_of_another_benchmark_is_refused(tmp_path, capsys):
    path = tmp_path / "other.ckpt"
    torch.save({"finishline_benchmark": "rnnt"}, path)
    assert run(BENCHMARK, ["fit", *DEMO, "--ckpt_path", str(path)]) == 2
    assert "was written by rnnt, not by unet3d" in capsys.readouterr().err


@pytest.mark.slow
def test_shuffled_labels_do_not_reach_the_target(tmp_path, monkeypatch):
    from datamodules.kits19 import volumes as kits19_volumes

    original = kits19_volumes.TrainingVolumes.__getitem__

    def shuffled(self, key):
        sample = original(self, key)
        label = sample["label"]
        order = torch.randperm(label.numel(), generator=torch.Generator().manual_seed(key.index))
        return sample | {"label": label.flatten()[order].reshape(label.shape)}

    monkeypatch.setattr(kits19_volumes.TrainingVolumes, "__getitem__", shuffled)
    status, folder = fit(tmp_path, "--evaluation.first", "12", "--evaluation.limit", "12")
    assert status == 3
    assert record(folder)["quality"]["mean_dice"] < 0.3
