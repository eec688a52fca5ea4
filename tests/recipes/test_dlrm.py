"""DLRM end to end: closed log, short runs, two ranks that share tables, resume, wrong learning."""

import csv
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from datamodules.criteo import CriteoDataModule
from datamodules.criteo import batches as criteo_batches
from datamodules.criteo.datamodule import REFERENCE
from datamodules.criteo.demo import write_logs
from datamodules.criteo.store import REFERENCE_ROWS, Manifest
from modules.dlrm import DLRMModule
from modules.recommendation.fused_embedding import FusedEmbedding
from recipes.cli.main import run
from recipes.dlrm import BENCHMARK
from tests.closed_log import compliance, write_log

ROOT = Path(__file__).parents[2]
PRESET = ["--config", str(ROOT / "recipes/presets/dlrm/demo.yaml"), "--trainer.accelerator", "cpu"]
SMALL = ["--data.num_days", "4", "--data.batch_size", "128", "--seed_everything", "5"]
SMALL += ["--model.warmup_steps", "5", "--model.decay_start_step", "30", "--model.decay_steps", "9"]
SMALL += ["--trainer.log_every_n_steps", "1"]
STEPS = 36  # 4608 training rows of 4 x 1536
EVERY = ["--evaluation.first", "1536", "--evaluation.every", "1536", "--evaluation.limit", "4608"]


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    root = tmp_path_factory.mktemp("criteo")
    write_logs(root, 4, 1536)
    return root


def arguments(logs, out, *extra):
    return [
        "fit",
        *PRESET,
        *SMALL,
        *EVERY,
        "--data.root",
        str(logs),
        "--output_root",
        str(out),
        *extra,
    ]


def folder_of(out):
    return sorted((out / "dlrm").glob("*"))[-1]


def record(folder):
    return json.loads((folder / "run.json").read_text())


def column(folder, name):
    with (folder / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def closed_facts(monkeypatch):
    manifest = Manifest(REFERENCE, REFERENCE_ROWS, ())
    data = CriteoDataModule(root=Path("/data/criteo"))
    monkeypatch.setattr(data, "_manifest", manifest)
    return DLRMModule().mllog_facts(), data.mllog_facts()


def test_closed_log_passes_the_official_checker(tmp_path, monkeypatch):
    module, data = closed_facts(monkeypatch)
    assert data == {"train_samples": 4_195_197_692, "eval_samples": 89_137_319}
    valid, messages = compliance(
        write_log(tmp_path, BENCHMARK, module_facts=module, data_facts=data)
    )
    assert valid, messages


@pytest.mark.parametrize("missing", ["lr_decay_start_steps", "sgd_opt_base_learning_rate"])
def test_closed_log_without_a_required_key_is_rejected(tmp_path, monkeypatch, missing):
    module, data = closed_facts(monkeypatch)
    del module[missing]
    valid, messages = compliance(
        write_log(tmp_path, BENCHMARK, module_facts=module, data_facts=data)
    )
    assert not valid
    assert any(missing in message for message in messages)


def test_closed_log_below_the_target_is_rejected(tmp_path, monkeypatch):
    module, data = closed_facts(monkeypatch)
    path = write_log(
        tmp_path, BENCHMARK, module_facts=module, data_facts=data, quality={"auc": [0.8024]}
    )
    assert not compliance(path)[0]


def test_closed_schedule_evaluates_every_twentieth_and_at_the_end():
    from callbacks.evaluation_schedule import EvaluationSchedule

    schedule = EvaluationSchedule(**BENCHMARK.evaluation)
    done, amounts = 0.0, []
    while done < schedule.limit:
        done = schedule.next_amount(done, REFERENCE_ROWS["train"])
        amounts.append(done)
    assert amounts[:20] == [209_715_200 * number for number in range(1, 21)]
    assert amounts[20:] == [REFERENCE_ROWS["train"]]


def test_short_run_logs_fractions_of_the_epoch_and_gives_up_at_its_end(tmp_path, logs, capsys):
    assert run(BENCHMARK, arguments(logs, tmp_path, "--trainer.logger", "CSVLogger")) == 3
    folder = folder_of(tmp_path)
    assert (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").is_file()
    facts = record(folder)
    assert (facts["stop_reason"], facts["samples"]) == ("BUDGET_EXHAUSTED", 4608)
    assert (facts["demo"], facts["division"]) == (False, "open")
    assert (folder / "predictions.png").is_file()
    assert len(column(folder, "val/auc")) == 3
    lines = [json.loads(line[9:]) for line in (folder / "result.txt").open()]
    fractions = [x["metadata"]["epoch_num"] for x in lines if x["key"] == "eval_accuracy"]
    assert fractions == pytest.approx([1 + 1 / 3, 1 + 2 / 3, 2.0])
    losses = column(folder, "train/loss")
    assert len(losses) == STEPS
    out = capsys.readouterr().out
    assert "Memory plan: embedding tables: 8,786 rows x 16 float32" in out
    assert "target not reached" in out


@pytest.mark.parametrize("logger", [[], ["--trainer.logger", "[CSVLogger, WandbLogger]"]])
def test_fast_dev_run_trains_a_step_evaluates_once_and_ends_with_the_verdict(
    logger, tmp_path, logs, capsys, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    fast = ["--trainer.fast_dev_run", "true", *logger]
    assert run(BENCHMARK, arguments(logs, tmp_path, *fast)) == 3
    facts = record(folder_of(tmp_path))
    assert (facts["samples"], facts["evaluations"]) == (128, 1)
    assert facts["stop_reason"] == "BUDGET_EXHAUSTED"
    out = capsys.readouterr().out
    assert out.splitlines()[-1].startswith("dlrm open division: target not reached, auc ")


def test_reached_target_stops_and_its_log_passes_as_open(tmp_path, logs):
    args = arguments(logs, tmp_path, "--target.metrics", '{"auc": 0.3}')
    assert run(BENCHMARK, args) == 0
    folder = folder_of(tmp_path)
    assert record(folder)["samples"] == 1536
    valid, messages = compliance(folder / "result.txt")
    assert valid, messages


@pytest.mark.slow
def test_two_ranks_that_share_tables_train_and_resume_like_one(tmp_path, logs):
    assert run(BENCHMARK, arguments(logs, tmp_path / "1")) == 3
    args = arguments(logs, tmp_path / "2", "--data.batch_size", "64", "--trainer.devices", "2")
    command = [sys.executable, "recipes/dlrm.py", *args, "--trainer.strategy", "ddp"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 3, done.stderr
    one, two = folder_of(tmp_path / "1"), folder_of(tmp_path / "2")
    assert record(two)["devices"] == 2
    assert record(two)["parameters"] == record(one)["parameters"]
    assert record(two)["global_batch_size"] == record(one)["global_batch_size"] == 128
    assert column(two, "val/auc") == pytest.approx(column(one, "val/auc"), abs=1e-4)
    # Whole tables are in either checkpoint, so one process can read what two wrote.
    weights = [
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (one, two)
    ]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-4)
    checkpoint = str(two / "checkpoints" / "last.ckpt")
    alone = ["--trainer.devices", "1", "--trainer.strategy", "auto"]
    assert run(BENCHMARK, ["validate", "--ckpt_path", checkpoint, *alone]) == 3


def test_resumed_run_sees_the_rest_of_the_epoch_and_ends_equal(tmp_path, logs):
    every = ["--checkpoint.every_seconds", "0"]
    assert run(BENCHMARK, arguments(logs, tmp_path / "whole", *every)) == 3
    # Stopped by a signal at step 20, in the middle between two evaluations.
    original = DLRMModule.training_step

    def signals(self, batch, batch_idx):
        if self.global_step == 20:
            os.kill(os.getpid(), 15)
        return original(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DLRMModule, "training_step", signals)
        assert run(BENCHMARK, arguments(logs, tmp_path / "cut")) == 130
    cut = folder_of(tmp_path / "cut")
    args = ["fit", "--ckpt_path", "last", "--output_root", str(tmp_path / "cut")]
    assert run(BENCHMARK, [*args, "--checkpoint.every_seconds", "0"]) == 3
    resumed, whole = folder_of(tmp_path / "cut"), folder_of(tmp_path / "whole")
    assert resumed != cut
    rest = column(resumed, "train/loss")
    assert len(rest) == STEPS - 21
    assert rest == column(whole, "train/loss")[-len(rest) :]
    assert column(resumed, "val/auc")[-1] == column(whole, "val/auc")[-1]


class Logistic(torch.nn.Module):
    """A foreign net for the test below."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(13, 1)
        torch.nn.init.constant_(self.layer.bias, bias)

    def forward(self, dense: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return self.layer(dense).squeeze(1)


def test_foreign_net_by_dotted_path_runs_in_the_open_division(tmp_path, logs):
    net = ["--model.net", "tests.recipes.test_dlrm.Logistic", "--model.net.bias", "-2.0"]
    args = ["fit", *SMALL, *EVERY, "--evaluation.at", "[]", "--data.root", str(logs), *net]
    args += ["--trainer.accelerator", "cpu", "--output_root", str(tmp_path)]
    assert run(BENCHMARK, args) == 3
    facts = record(folder_of(tmp_path))
    assert facts["net"]["class"] == "tests.recipes.test_dlrm.Logistic"
    assert facts["division"] == "open"
    assert facts["parameters"] == 14


class Fused(Logistic):
    """A foreign net with fused tables of its own."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.tables = FusedEmbedding([rows] * 26, 2)


def test_fused_tables_of_a_foreign_net_must_have_rows_for_the_data(tmp_path, logs, capsys):
    """An id too large for its table would silently read the next one."""
    args = ["fit", *SMALL, *EVERY, "--evaluation.at", "[]", "--data.root", str(logs)]
    args += ["--trainer.accelerator", "cpu", "--output_root", str(tmp_path)]
    args += ["--model.net", "tests.recipes.test_dlrm.Fused", "--model.net.rows", "40"]
    assert run(BENCHMARK, args) == 1
    error = capsys.readouterr().err.strip()
    assert "too small for the data's categories" in error
    assert "\n" not in error


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (["--model.net.table_sizes", str([9] * 26)], 1, "too small for the data's categories"),
        (["--data.num_days", "5"], 1, "day_4"),
        (["--data.batch_size", "4609"], 1, "larger than the training split of 4,608"),
        (["--data.max_ind_range", "0"], 2, "max_ind_range must be"),
    ],
)
def test_bad_settings_get_one_clear_line(tmp_path, logs, capsys, flags, status, words):
    assert run(BENCHMARK, arguments(logs, tmp_path, *flags)) == status
    error = capsys.readouterr().err.strip()
    assert words in error
    assert "\n" not in error


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data.num_days", "4"], "day 23"),
        (["--data.max_ind_range", "1000"], "fixed at 40,000,000"),
        (["--evaluation.limit", "9e9"], "evaluation schedule"),
        (["--model.net.table_dtype", "bfloat16"], "model.net"),
    ],
)
def test_declaring_closed_against_a_rule_is_refused(tmp_path, capsys, flags, words):
    args = ["fit", "--data.root", str(tmp_path), "--submission.division", "closed", *flags]
    assert run(BENCHMARK, args) == 2
    assert words in capsys.readouterr().err


def test_diverged_training_ends_with_status_3_and_says_so(tmp_path, logs, capsys):
    assert run(BENCHMARK, arguments(logs, tmp_path, "--model.learning_rate", "1e30")) == 3
    assert record(folder_of(tmp_path))["stop_reason"] == "NON_FINITE"
    assert "not finite" in capsys.readouterr().out


def test_shuffled_labels_stay_at_chance_and_raise_the_alarm(tmp_path, logs, monkeypatch, caplog):
    original = criteo_batches.CriteoBlocks.__getitem__

    def shuffled(self, block):
        batch = original(self, block)
        if self._split == "train":
            order = torch.randperm(len(batch["label"]), generator=torch.Generator().manual_seed(3))
            batch["label"] = batch["label"][order]
        return batch

    monkeypatch.setattr(criteo_batches.CriteoBlocks, "__getitem__", shuffled)
    with caplog.at_level(logging.WARNING):
        assert run(BENCHMARK, arguments(logs, tmp_path)) == 3
    areas = column(folder_of(tmp_path), "val/auc")
    assert all(abs(area - 0.5) < 0.1 for area in areas)
    assert any("no better than chance" in message for message in caplog.messages)


@pytest.mark.parametrize("informative", [True, False])
def test_alarm_needs_three_evaluations_in_a_row_at_chance(monkeypatch, caplog, informative):
    module = DLRMModule(net=Logistic)
    monkeypatch.setattr(module, "log", lambda *args, **options: None)
    torch.manual_seed(0)
    for _ in range(3):
        assert not caplog.messages
        labels = torch.rand(3000) < 0.2
        module.auc.update(0.5 * torch.rand(3000) + 0.1 * informative * labels, labels)
        with caplog.at_level(logging.WARNING):
            module.on_validation_epoch_end()
    assert any("no better than chance" in text for text in caplog.messages) is not informative
