"""RNN-T end to end: closed log, short runs, resume, two ranks, foreign nets, transcripts."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from datamodules.librispeech import LibriSpeechDataModule
from modules.rnnt import RNNTModule
from modules.rnnt.net import RNNT
from recipes.cli.main import run
from recipes.rnnt import BENCHMARK
from tests.closed_log import compliance, write_log

ROOT = Path(__file__).parents[2]
DEMO = ["--config", str(ROOT / "recipes/presets/rnnt/demo.yaml")]
CPU = ["--trainer.accelerator", "cpu"]
SHORT = ["--evaluation.every", "1", "--evaluation.limit", "1", "--trainer.log_every_n_steps", "1"]
TENSORS = {"pre_rnn", "post_rnn", "pred_embed", "dec_rnn", "joint_pred", "joint_enc", "joint_net"}


def fit(tmp_path, *extra):
    """A short run in this process; returns exit status and the run folder."""
    args = ["fit", *DEMO, *CPU, "--output_root", str(tmp_path), "--seed_everything", "5"]
    status = run(BENCHMARK, [*args, *SHORT, *extra])
    folders = sorted((tmp_path / "rnnt").glob("*")) if (tmp_path / "rnnt").exists() else []
    return status, folders[-1] if folders else None


def record(folder):
    return json.loads((folder / "run.json").read_text())


def losses(folder):
    with (folder / "metrics.csv").open() as file:
        return {int(r["step"]): r["train/loss"] for r in csv.DictReader(file) if r["train/loss"]}


@pytest.fixture(scope="module")
def one_epoch(tmp_path_factory):
    """A demo run of one epoch that other tests look at."""
    status, folder = fit(tmp_path_factory.mktemp("one"))
    assert status == 3
    return folder


@pytest.fixture(scope="module")
def closed_facts():
    module = RNNTModule()
    data = {
        "train_samples": 278528, "eval_samples": 2703,
        "data_train_max_duration": 16.7, "data_train_num_buckets": 6,
    }  # fmt: skip
    return module.mllog_facts(), data, tuple(module.mllog_tensors())


def test_closed_log_passes_the_official_checker(tmp_path, closed_facts):
    module, data, tensors = closed_facts
    assert set(tensors) == TENSORS
    path = write_log(tmp_path, BENCHMARK, module_facts=module, data_facts=data, tensors=tensors)
    valid, messages = compliance(path)
    assert valid, messages


@pytest.mark.parametrize("missing", ["opt_lamb_beta_2", "data_speed_perturbaton_min"])
def test_closed_log_without_a_required_key_is_rejected(tmp_path, closed_facts, missing):
    module, data, tensors = closed_facts
    facts = {key: value for key, value in module.items() if key != missing}
    path = write_log(tmp_path, BENCHMARK, module_facts=facts, data_facts=data, tensors=tensors)
    assert not compliance(path)[0]


def test_closed_log_above_the_target_or_without_weights_is_rejected(tmp_path, closed_facts):
    module, data, tensors = closed_facts
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    facts = {"module_facts": module, "data_facts": data}
    missed = {"word_error_rate": [0.0581]}
    path = write_log(tmp_path / "a", BENCHMARK, tensors=tensors, quality=missed, **facts)
    assert not compliance(path)[0]
    assert '"status": "aborted"' in path.read_text()
    assert not compliance(write_log(tmp_path / "b", BENCHMARK, tensors=tensors[1:], **facts))[0]


def test_short_run_says_what_it_measured(one_epoch):
    facts = record(one_epoch)
    assert (facts["demo"], facts["division"]) == (True, "open")
    assert facts["stop_reason"] == "BUDGET_EXHAUSTED"
    assert facts["samples"] == 384
    assert facts["quality"]["word_error_rate"] > 0.058
    assert facts["flops_per_sample"] > 1e7
    assert facts["parameters"] == sum(
        p.numel() for p in RNNT(num_labels=17, encoder_size=96, pre_layers=1, post_layers=1,
                                prediction_size=48, joint_size=48).parameters()
    )  # fmt: skip
    text = (one_epoch / "result.txt").read_text()
    assert text.count('"weights_initialization"') == 7


def test_validate_writes_transcripts(one_epoch, capsys):
    of_fit = (one_epoch / "hypotheses.tsv").read_text()
    (one_epoch / "hypotheses.tsv").unlink()
    assert run(BENCHMARK, ["validate", "--ckpt_path", str(one_epoch), *CPU]) == 3
    rate = record(one_epoch)["quality"]["word_error_rate"]
    assert f"{rate:.6f}" in capsys.readouterr().out
    assert (one_epoch / "hypotheses.tsv").read_text() == of_fit
    lines = of_fit.splitlines()
    assert lines[0].split("\t") == ["utterance", "errors", "reference", "hypothesis"]
    rows = [line.split("\t") for line in lines[1:]]
    assert len(rows) == 48
    assert all(row[0].count("-") == 2 for row in rows)
    words = sum(len(row[2].split()) for row in rows)
    assert sum(int(row[1]) for row in rows) / words == pytest.approx(rate)


def test_checkpoint_holds_weights_and_their_average(one_epoch):
    state = torch.load(one_epoch / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    net = {k[4:]: v for k, v in state.items() if k.startswith("net.")}
    average = {k[8:]: v for k, v in state.items() if k.startswith("average.")}
    assert net.keys() == average.keys()
    assert all(not torch.equal(net[key], average[key]) for key in net)


def test_resumed_run_equals_an_uninterrupted_one(one_epoch, tmp_path):
    # one_epoch ended after its first epoch with this seed: continue it, and train both in one go.
    always = ["--checkpoint.every_seconds", "0"]
    status, whole = fit(tmp_path / "whole", "--evaluation.limit", "2", *always)
    assert status == 3
    checkpoint = str(one_epoch / "checkpoints" / "last.ckpt")
    args = ["fit", "--ckpt_path", checkpoint, "--evaluation.limit", "2", *CPU, *always]
    assert run(BENCHMARK, [*args, "--output_root", str(tmp_path / "cut")]) == 3
    resumed = next((tmp_path / "cut" / "rnnt").glob("*"))
    expected, after = losses(whole), losses(resumed)
    assert len(after) == 48
    assert {step: expected[step] for step in after} == after
    states = [
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (whole, resumed)
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert record(whole)["quality"] == record(resumed)["quality"]


@pytest.mark.slow
def test_two_ranks_evaluate_exactly_like_one(one_epoch):
    checkpoint = str(one_epoch / "checkpoints" / "last.ckpt")
    outputs = []
    for devices in ("1", "2"):
        command = [sys.executable, "recipes/rnnt.py", "validate", "--ckpt_path", checkpoint]
        command += [*CPU, "--trainer.devices", devices, "--trainer.strategy", "ddp"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 3, done.stderr
        line = next(x for x in done.stdout.splitlines() if "word_error_rate" in x)
        outputs.append((line, (one_epoch / "hypotheses.tsv").read_text()))
    assert outputs[0] == outputs[1]


@pytest.mark.slow
def test_two_ranks_train_on_the_same_rows_as_one(one_epoch, tmp_path):
    command = [sys.executable, "recipes/rnnt.py", "fit", *DEMO, *CPU, *SHORT]
    command += ["--seed_everything", "5", "--output_root", str(tmp_path)]
    command += ["--data.batch_size", "4", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 3, done.stderr
    both = record(next((tmp_path / "rnnt").glob("*")))
    assert both["samples"] == record(one_epoch)["samples"] == 384
    assert both["global_batch_size"] == 8
    assert both["devices"] == 2


class Mute(RNNT):
    """A foreign net that always gives a blank."""

    def __init__(self, num_labels: int = 17) -> None:
        super().__init__(num_labels=num_labels, encoder_size=8, pre_layers=1, post_layers=1,
                         prediction_size=8, joint_size=8)  # fmt: skip

    def join(self, encoded, predicted):
        logits = super().join(encoded, predicted)
        blank = torch.zeros_like(logits)
        blank[..., -1] = 50.0
        return blank + 0.0 * logits


def test_foreign_net_runs_in_the_open_division_and_silence_is_no_answer(tmp_path):
    preset = tmp_path / "mute.yaml"
    preset.write_text(
        "model:\n  net:\n    class_path: tests.recipes.test_rnnt.Mute\n"
        "    init_args: {num_labels: 17}\n"
        "data: {batch_size: 8, vocab_size: 17}\ntrainer: {accumulate_grad_batches: 1}\n"
    )
    args = ["fit", "--config", str(preset), *CPU, *SHORT, "--output_root", str(tmp_path)]
    assert run(BENCHMARK, args) == 3
    facts = record(next((tmp_path / "rnnt").glob("*")))
    assert facts["net"]["class"] == "tests.recipes.test_rnnt.Mute"
    assert facts["division"] == "open"
    assert facts["quality"]["word_error_rate"] == 1.0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model.epsilon", "1e-6"], "opt_lamb_epsilon is fixed"),
        (["--model.gradient_clip_norm", "2"], "opt_gradient_clip_norm is 1 or inf"),
        (["--model.speed_range", "[0.9, 1.1]"], "speed perturbation is fixed"),
        (["--data.num_buckets", "1"], "data_train_num_buckets is fixed"),
        (["--data.vocab_size", "512"], "1023 SentencePiece"),
        (["--evaluation.every", "2"], "evaluation schedule"),
        (["--model.net.joint_dropout", "0.2"], "joint_dropout=0.2"),
        (["--model.net", "tests.recipes.test_rnnt.Mute"], "closed fixes the network"),
    ],
)
def test_declaring_closed_against_a_rule_is_refused(tmp_path, capsys, flags, words):
    args = ["fit", "--data.root", str(tmp_path), "--submission.division", "closed", *flags]
    assert run(BENCHMARK, args) == 2
    assert words in capsys.readouterr().err


def test_scale_of_the_first_weights_is_free_in_the_closed_division(tmp_path, capsys):
    args = ["fit", "--data.root", str(tmp_path), "--submission.division", "closed"]
    assert run(BENCHMARK, [*args, "--model.net.init_scale", "0.35"]) == 1
    assert f"data root {tmp_path} contains none of" in capsys.readouterr().err


def test_net_and_vocabulary_of_unequal_size_is_one_line(tmp_path, capsys):
    assert fit(tmp_path, "--data.vocab_size", "18")[0] == 1
    assert "data.vocab_size is 18 but the net has 17 labels" in capsys.readouterr().err


@pytest.mark.demo
def test_shuffled_transcripts_do_not_reach_the_target(tmp_path, monkeypatch):
    from datamodules.librispeech import audio as librispeech_audio

    original = librispeech_audio.Utterances.__getitem__

    def shuffled(self, key):
        sample = original(self, key)
        if isinstance(key, int):
            return sample  # evaluation is as ever
        other = original(self, key._replace(index=(key.index * 7 + 3) % len(self)))
        return sample._replace(labels=other.labels)

    monkeypatch.setattr(librispeech_audio.Utterances, "__getitem__", shuffled)
    status, folder = fit(tmp_path, "--evaluation.every", "10", "--evaluation.limit", "40")
    assert status == 3
    assert record(folder)["quality"]["word_error_rate"] > 0.6


def test_recipe_uses_the_module_and_data_of_this_benchmark():
    assert BENCHMARK.module_class() is RNNTModule
    assert BENCHMARK.datamodule_class() is LibriSpeechDataModule
    assert BENCHMARK.trainer["accumulate_grad_batches"] * LibriSpeechDataModule().batch_size == 1024
