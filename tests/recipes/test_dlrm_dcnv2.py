"""DLRM-DCNv2 end to end: closed log, evaluations, two ranks, resume, own nets, wrong learning."""

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mlperf_logging.rcp_checker import rcp_checker

from datamodules.criteo.demo import write_logs
from datamodules.criteo.multi_hot import MultiHotDataModule
from datamodules.criteo.multi_hot import batches as multi_hot_batches
from datamodules.criteo.store import REFERENCE_ROWS, Manifest, MultiHotSettings
from modules.dlrm_dcnv2 import DCNv2Module
from recipes.cli.main import run
from recipes.dlrm_dcnv2 import BENCHMARK, evaluation_every
from tests.closed_log import compliance, write_log

ROOT = Path(__file__).parents[2]
PRESET = ["--config", str(ROOT / "recipes/presets/dlrm_dcnv2/demo.yaml")]
SMALL = ["--trainer.accelerator", "cpu", "--data.num_days", "4", "--data.batch_size", "128"]
SMALL += ["--seed_everything", "5", "--trainer.log_every_n_steps", "1"]
STEPS = 36  # 4608 training rows of 4 x 1536
EVERY = ["--evaluation.every", "1536", "--evaluation.limit", "4608"]


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    root = tmp_path_factory.mktemp("criteo")
    write_logs(root, 4, 1536, category_scale=0.33, product_scale=0.32)
    return root


def arguments(logs, out, *extra):
    given = ["--data.root", str(logs), "--output_root", str(out)]
    return ["fit", *PRESET, *SMALL, *EVERY, *given, *extra]


def folder_of(out):
    return sorted((out / "dlrm_dcnv2").glob("*"))[-1]


def record(folder):
    return json.loads((folder / "run.json").read_text())


def column(folder, name):
    with (folder / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def closed_log(tmp_path, monkeypatch, **options):
    data = MultiHotDataModule(root=Path("/data/criteo"))
    monkeypatch.setattr(data, "_manifest", Manifest(MultiHotSettings(24, 1), REFERENCE_ROWS, ()))
    facts = {"module_facts": DCNv2Module().mllog_facts(), "data_facts": data.mllog_facts()}
    return write_log(tmp_path, BENCHMARK, **facts | options)


@pytest.mark.parametrize("ruleset", ["3.0.0", "5.1.0", "6.0.0"])
def test_closed_log_passes_the_official_checker(tmp_path, monkeypatch, ruleset):
    valid, messages = compliance(closed_log(tmp_path, monkeypatch), ruleset)
    assert valid, messages


@pytest.mark.parametrize("missing", ["opt_adagrad_epsilon", "opt_learning_rate_decay_start_step"])
def test_closed_log_without_a_required_key_is_rejected(tmp_path, monkeypatch, missing):
    facts = DCNv2Module().mllog_facts()
    del facts[missing]
    valid, messages = compliance(closed_log(tmp_path, monkeypatch, module_facts=facts), "6.0.0")
    assert not valid
    assert any(missing in message for message in messages)


def test_closed_log_below_the_target_is_rejected(tmp_path, monkeypatch):
    path = closed_log(tmp_path, monkeypatch, quality={"auc": [0.80274]})
    assert not compliance(path, "6.0.0")[0]


@pytest.mark.parametrize(
    ("batch", "steps"),
    [(32_768, 6401), (55_296, 3793), (65_536, 3200), (102_400, 2048), (135_168, 1551),
     (160_000, 1310)],
)  # fmt: skip
def test_an_evaluation_comes_each_whole_number_of_steps_in_a_twentieth(batch, steps):
    assert evaluation_every(batch) == steps * batch
    assert 20 * steps * batch <= REFERENCE_ROWS["train"]


@pytest.mark.parametrize("batch", [8192, 32_768, 55_296, 65_536, 102_400, 135_168, 160_000])
def test_a_run_ends_after_its_twentieth_evaluation_at_any_batch(batch):
    steps = math.ceil(BENCHMARK.evaluation["limit"] / batch)  # as the schedule rounds it
    assert steps == math.ceil(REFERENCE_ROWS["train"] / batch)
    assert steps // (evaluation_every(batch) // batch) == 20


def test_batches_and_rates_of_the_reference_points_are_the_packages():
    points = rcp_checker.RCP_Checker("training", "6.0.0", "dlrm_dcnv2", False).rcp_data
    rates = {
        point["BS"]: point["Hyperparams"]["opt_base_learning_rate"] for point in points.values()
    }
    assert rates[55_296] == DCNv2Module().learning_rate
    assert set(rates) == {32_768, 55_296, 65_536, 102_400, 135_168, 160_000}


def test_short_run_logs_fractions_from_zero_and_gives_up_at_its_end(tmp_path, logs, capsys):
    assert run(BENCHMARK, arguments(logs, tmp_path)) == 3
    folder = folder_of(tmp_path)
    facts = record(folder)
    assert (facts["stop_reason"], facts["samples"]) == ("BUDGET_EXHAUSTED", 4608)
    assert (folder / "predictions.png").is_file()
    lines = [json.loads(line[9:]) for line in (folder / "result.txt").open()]
    fractions = [x["metadata"]["epoch_num"] for x in lines if x["key"] == "eval_accuracy"]
    assert fractions == pytest.approx([1 / 3, 2 / 3, 1.0])
    epochs = [x["metadata"]["epoch_num"] for x in lines if x["key"] == "epoch_start"]
    assert epochs[0] == 0
    assert len(column(folder, "train/loss")) == STEPS
    assert "with the optimizer's sums" in capsys.readouterr().out


def test_reached_target_stops_and_its_log_passes_as_open(tmp_path, logs):
    args = arguments(logs, tmp_path, "--target.metrics", '{"auc": 0.3}')
    assert run(BENCHMARK, args) == 0
    folder = folder_of(tmp_path)
    assert record(folder)["samples"] == 1536
    valid, messages = compliance(folder / "result.txt", "6.0.0")
    assert valid, messages


@pytest.mark.slow
def test_two_ranks_train_and_resume_like_one(tmp_path, logs):
    """Weights and Adagrad's sums are whole in a checkpoint: one process reads what two wrote."""
    end = ["--checkpoint.every_seconds", "0"]
    assert run(BENCHMARK, arguments(logs, tmp_path / "1", *end)) == 3
    args = arguments(logs, tmp_path / "2", *end, "--data.batch_size", "64")
    command = [sys.executable, "recipes/dlrm_dcnv2.py", *args, "--trainer.devices", "2"]
    command += ["--trainer.strategy", "ddp"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 3, done.stderr
    one, two = folder_of(tmp_path / "1"), folder_of(tmp_path / "2")
    assert record(two)["devices"] == 2
    assert record(two)["parameters"] == record(one)["parameters"]
    assert column(two, "val/auc") == pytest.approx(column(one, "val/auc"), abs=2e-3)
    saved = [torch.load(f / "checkpoints/last.ckpt", weights_only=True) for f in (one, two)]
    for name, value in saved[0]["state_dict"].items():
        assert saved[1]["state_dict"][name].shape == value.shape
    states = [checkpoint["optimizer_states"][0]["state"] for checkpoint in saved]
    assert states[0].keys() == states[1].keys()
    for number, state in states[0].items():
        assert states[1][number]["sum"].shape == state["sum"].shape
        torch.testing.assert_close(states[1][number]["sum"], state["sum"], rtol=0.2, atol=1e-4)
    checkpoint = str(two / "checkpoints" / "last.ckpt")
    alone = ["--trainer.devices", "1", "--trainer.strategy", "auto"]
    assert run(BENCHMARK, ["validate", "--ckpt_path", checkpoint, *alone]) == 3


def stopped_at(step):
    original = DCNv2Module.training_step

    def signals(self, batch, batch_idx):
        if self.global_step == step:
            os.kill(os.getpid(), 15)
        return original(self, batch, batch_idx)

    return signals


def test_resumed_run_sees_the_rest_of_the_epoch_and_ends_equal(tmp_path, logs):
    assert run(BENCHMARK, arguments(logs, tmp_path / "whole")) == 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DCNv2Module, "training_step", stopped_at(20))
        assert run(BENCHMARK, arguments(logs, tmp_path / "cut")) == 130
    args = ["fit", "--ckpt_path", "last", "--output_root", str(tmp_path / "cut")]
    assert run(BENCHMARK, args) == 3
    resumed, whole = folder_of(tmp_path / "cut"), folder_of(tmp_path / "whole")
    rest = column(resumed, "train/loss")
    assert len(rest) == STEPS - 21
    assert rest == column(whole, "train/loss")[-len(rest) :]
    assert column(resumed, "val/auc")[-1] == column(whole, "val/auc")[-1]


class Stopping(DCNv2Module):
    """Ends its run in the middle of the epoch, where the environment says so."""

    def training_step(self, batch, batch_idx):
        if os.environ.get("STOP_AT") == str(self.global_step) and self.global_rank == 0:
            os.kill(os.getpid(), 15)
        return super().training_step(batch, batch_idx)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_run_resumes_on_another_number_of_ranks(tmp_path, logs, before, after):
    """Rows and Adagrad's sums are shared out anew: the end is that of a run that never stopped."""

    def fit(ranks, *args, **environment):
        command = [sys.executable, "recipes/dlrm_dcnv2.py", *args]
        command += ["--data.batch_size", str(128 // ranks), "--trainer.devices", str(ranks)]
        command += ["--trainer.strategy", "ddp" if ranks > 1 else "auto"]
        environment = {**os.environ, **environment}
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
        )

    assert run(BENCHMARK, arguments(logs, tmp_path / "whole")) == 3
    out, module = tmp_path / "cut", ["--module", "tests.recipes.test_dlrm_dcnv2.Stopping"]
    done = fit(before, *arguments(logs, out), *module, STOP_AT="20")
    assert done.returncode == 130, done.stderr
    done = fit(after, "fit", "--ckpt_path", "last", "--output_root", str(out))
    assert done.returncode == 3, done.stderr
    whole, resumed = folder_of(tmp_path / "whole"), folder_of(out)
    assert record(resumed)["devices"] == after
    areas = column(resumed, "val/auc")
    assert areas == pytest.approx(column(whole, "val/auc")[-len(areas) :], abs=1e-3)


class Bags(torch.nn.Module):
    """A foreign net with tables of its own."""

    def __init__(self, table_sizes: list[int], bag_sizes: list[int]) -> None:
        super().__init__()
        self.sizes = bag_sizes
        self.tables = torch.nn.ModuleList(torch.nn.EmbeddingBag(n, 1) for n in table_sizes)

    def forward(self, dense: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        parts = ids.split(list(self.sizes), 1)
        return sum(t(p) for t, p in zip(self.tables, parts, strict=True)).squeeze(1)


def test_foreign_net_gets_tables_and_bags_and_runs_in_the_open_division(tmp_path, logs):
    args = ["fit", *SMALL, *EVERY, "--data.root", str(logs), "--output_root", str(tmp_path)]
    assert run(BENCHMARK, [*args, "--model.net", "tests.recipes.test_dlrm_dcnv2.Bags"]) == 3
    facts = record(folder_of(tmp_path))
    assert facts["division"] == "open"
    assert facts["net"]["class"] == "tests.recipes.test_dlrm_dcnv2.Bags"


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (["--model.net.table_sizes", str([9] * 26)], 1, "too small for the data's categories"),
        (["--model.net.bag_sizes", str([1] * 26)], 1, "are not those of the data"),
        (["--data.batch_size", "4609"], 1, "larger than the training split of 4,608"),
        (["--data.max_rows", "0"], 2, "max_rows must be"),
        (["--trainer.strategy", "fsdp2"], 1, "by itself; use"),
    ],
)
def test_bad_settings_get_one_clear_line(tmp_path, logs, capsys, flags, status, words):
    """Bags of one id would be one-hot lookups: another benchmark."""
    assert run(BENCHMARK, arguments(logs, tmp_path, *flags)) == status
    error = capsys.readouterr().err.strip()
    assert words in error
    assert "\n" not in error


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data.num_days", "4"], "day 23"),
        (["--data.max_rows", "1000"], "at most 40,000,000 rows"),
        (["--evaluation.limit", "9e9"], "evaluation schedule"),
        (["--model.net.cross_rank", "64"], "model.net"),
    ],
)
def test_declaring_closed_against_a_rule_is_refused(tmp_path, capsys, flags, words):
    args = ["fit", "--data.root", str(tmp_path), "--submission.division", "closed", *flags]
    assert run(BENCHMARK, args) == 2
    assert words in capsys.readouterr().err


def test_shuffled_labels_stay_at_chance(tmp_path, logs, monkeypatch):
    original = multi_hot_batches.MultiHotBlocks.__getitem__

    def shuffled(self, block):
        batch = original(self, block)
        if self._split == "train":
            order = torch.randperm(len(batch["label"]), generator=torch.Generator().manual_seed(3))
            batch["label"] = batch["label"][order]
        return batch

    monkeypatch.setattr(multi_hot_batches.MultiHotBlocks, "__getitem__", shuffled)
    assert run(BENCHMARK, arguments(logs, tmp_path)) == 3
    assert all(abs(area - 0.5) < 0.12 for area in column(folder_of(tmp_path), "val/auc"))
