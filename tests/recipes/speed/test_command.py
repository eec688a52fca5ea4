"""The command as a user runs it: synthetic batches, variants, a trace and the JSON file."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from recipes.cli.main import run
from recipes.resnet import BENCHMARK
from recipes.speed import batch_size, evaluation
from recipes.speed.flags import SpeedCLI
from recipes.speed.variants import parse_variants

ROOT = Path(__file__).parents[3]
STEMS = sorted(path.stem for path in (ROOT / "recipes").glob("[a-z]*.py"))
V1 = {"bert", "dlrm", "maskrcnn", "minigo", "resnet", "rnnt", "ssd", "unet3d"}
CPU = ["--trainer.accelerator", "cpu"]
TINY = [
    "--model.net.width", "8", "--model.net.blocks", "[1,1,1,1]", "--data.image_size", "64",
    "--data.batch_size", "8", "--trainer.accumulate_grad_batches", "1", "--step_seconds", "60",
    *CPU,
]  # fmt: skip
FIGURES = {
    "batch_size", "samples_per_second", "ms_per_step_median", "ms_per_step_p90",
    "data_wait_share", "plain_ms_per_step_median", "lightning_over_plain",
    "model_flops_per_second", "mfu", "peak_memory_gib",
}  # fmt: skip


def speed(benchmark, folder, *args):
    """Run ``speed --synthetic``; return the status and the JSON file's content."""
    path = folder / "speed.json"
    status = run(benchmark, ["speed", "--synthetic", "--json", str(path), *args])
    return status, json.loads(path.read_text())


def test_all_that_a_command_measures_is_in_its_file(tmp_path, monkeypatch, capsys):
    cache = tmp_path / "cache"
    monkeypatch.setenv("FINISHLINE_CACHE", str(cache))
    wrong = "tests.recipes.speed.planted.larger_outputs"
    args = [*TINY, "--steps", "2", "--profile", "--variants", f"bf16,{wrong}"]
    status, content = speed(BENCHMARK, tmp_path, *args)
    assert status == 0
    assert content["benchmark"] == "resnet"
    assert content["synthetic"] is True
    assert content["figures"].keys() == FIGURES
    assert content["figures"]["samples_per_second"] > 0
    assert content["figures"]["data_wait_share"] is None
    assert content["evaluation"]["sample"] == "image"
    assert content["evaluation"]["ms_per_sample"] > 0
    assert content["published"]["best"] == 7981
    share = content["figures"]["samples_per_second"] / content["limit"]["samples_per_second"]
    assert content["published"]["share_of_limit"] == pytest.approx(share)
    assert len(content["operators"]) == 10
    assert "traceEvents" in json.loads(Path(content["trace"]).read_text())
    right = {row["name"]: row["right"] for row in content["variants"]}
    assert right == {"eager": True, "bf16": True, wrong: False}
    assert not cache.exists() or not [path for path in cache.rglob("*") if path.is_file()]
    out = capsys.readouterr().out
    assert "NO (allowed 0.001, 0.02)" in out
    assert "published best: 7,981 images/s per H200" in out


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--steps", "1"], "--steps must be at least 2, got 1"),
        (["--memory_gib", "0"], "--memory_gib must be above 0, got 0"),
        (["--data.root", "there"], "--synthetic reads no data; leave out --data.root"),
        (["--json", "no/such/file.json"], "no/such is not a directory"),
        (["--variants", "fast"], "--variants: unknown 'fast'"),
    ],
)
def test_a_wrong_flag_is_told_in_one_line(args, text, capsys):
    assert run(BENCHMARK, ["speed", "--synthetic", *args]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert text in error


def test_a_network_that_cannot_fit_is_refused_before_it_is_built(capsys):
    args = ["speed", "--synthetic", *CPU, "--memory_gib", "0.01"]
    assert run(BENCHMARK, args) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "the network's weights need 0.0952 GiB, there are 0.01 GiB" in error
    assert "smaller network (--model.net.help lists its arguments)" in error


@pytest.mark.parametrize(
    ("compiles", "graphs", "seconds", "passes"),
    [(False, False, 1.0, 2), (False, False, 9.0, 1), (True, False, 9.0, 3), (False, True, 1.0, 3)],
)
def test_passes_that_compile_are_no_evaluations_cost(
    compiles, graphs, seconds, passes, monkeypatch
):
    taken = []

    def scripted(*_):
        taken.append(seconds / (len(taken) + 1))
        return taken[-1]

    monkeypatch.setattr(evaluation, "_evaluate", scripted)
    data = SimpleNamespace(
        synthetic_evaluation_batch=lambda size: (None, 4), evaluation_sample="image"
    )
    module = torch.nn.Linear(1, 1)
    module.cuda_graph_play = graphs
    flags = type("Flags", (dict,), {"step_seconds": 5.0})
    cli = SimpleNamespace(
        model=module,
        datamodule=data,
        config=flags({"data.evaluation_batch_size": 4}),
        config_init=SimpleNamespace(warmup=SimpleNamespace(compile=compiles)),
    )
    figures = evaluation.measure_evaluation(cli, SimpleNamespace(datamodule=None), 1.0)
    assert len(taken) == passes
    assert figures["ms_per_sample"] == pytest.approx(1000 * taken[-1] / 4)


def test_a_batch_is_doubled_within_memory_and_time(monkeypatch):
    """Memory and seconds per sample are scripted; what does not fit is never tried."""
    used = {"size": 0, "peak": 1.0, "held": 0.0}

    def step(cli, trainer, size):
        used["size"] = max(used["size"], size)
        used["peak"] = 1.0 + used["held"] + 0.5 * used["size"]
        return batch_size.Probe(0.1 * size, used["held"])

    class Cli:
        class config:  # noqa: N801
            step_seconds = 100.0

    class Trainer:
        class strategy:  # noqa: N801
            root_device = None

    monkeypatch.setattr(batch_size, "_step", step)
    monkeypatch.setattr(batch_size, "peak_memory", lambda device: used["peak"])
    monkeypatch.setattr(batch_size, "memory_limit", lambda cli: 20.0)
    assert batch_size._double(Cli, Trainer, closed=100, smallest=1, base=1.0) == (
        32,
        pytest.approx(3.2),
    )
    assert used["peak"] <= 0.9 * 20
    used.update(size=0, peak=1.0)
    assert batch_size._double(Cli, Trainer, closed=12, smallest=1, base=1.0) == (
        12,
        pytest.approx(1.2),
    )
    used.update(size=0, peak=1.0, held=9.0)  # tables, which no batch makes larger
    assert batch_size._double(Cli, Trainer, closed=100, smallest=1, base=1.0).size == 16
    assert used["peak"] == 18.0
    used.update(size=0, peak=1.0, held=0.0)
    Cli.config.step_seconds = 1.0
    assert batch_size._double(Cli, Trainer, closed=100, smallest=1, base=1.0) == (
        8,
        pytest.approx(0.8),
    )


def test_a_slow_step_leaves_fewer_of_them_and_says_so():
    """A round may take its steps times --step_seconds; at least two steps are needed."""
    for steps, seconds, kept in ((50, 9.0, 50), (50, 25.0, 10), (4, 25.0, 2), (2, 25.0, 2)):
        warm_up = SimpleNamespace(steps=3)
        cli = SimpleNamespace(
            config=SimpleNamespace(steps=steps, step_seconds=5.0),
            config_init=SimpleNamespace(warmup=warm_up),
        )
        lines = batch_size._fewer_steps(cli, seconds)
        assert cli.config.steps == kept
        assert warm_up.steps == (3 if kept == steps else 1)
        told = f"steps of a round {steps} -> {kept} (one takes 25 s)"
        assert lines == ([] if kept == steps else [told])


def test_a_probe_has_the_optimizers_state_and_moves_no_weight(monkeypatch):
    """In fp32 where variants are wanted: they are compared on the same batch."""
    cli = SpeedCLI(BENCHMARK, ["--synthetic", *TINY, "--trainer.precision", "bf16-mixed"])
    trainer, _ = batch_size._smallest_round(BENCHMARK, cli)
    module, made, kinds = cli.model, [], []
    configure = module.configure_optimizers
    monkeypatch.setattr(
        module, "configure_optimizers", lambda: made.append(configure()) or made[-1]
    )
    module.net.fc.register_forward_hook(lambda fc, inputs, result: kinds.append(result.dtype))
    before = [weight.detach().clone() for weight in module.parameters()]
    for cli.variants in ([], parse_variants("bf16")):
        batch_size._step(cli, trainer, 4)
    assert kinds == [torch.bfloat16, torch.float32]
    assert [len(one["optimizer"].state) for one in made] == [len(before)] * 2
    assert all(map(torch.equal, before, module.parameters()))


@pytest.mark.slow
@pytest.mark.timeout(1500)  # U-Net's takes minutes of one core
@pytest.mark.parametrize("stem", STEMS)
def test_closed_networks_are_measured_without_data(stem, tmp_path):
    # In a process of its own, as the memory of one that has trained before counts too.
    path, cache = tmp_path / "speed.json", str(tmp_path / "cache")
    limits = ["--steps", "2", "--step_seconds", "0.5", "--memory_gib", "10", *CPU]
    command = [sys.executable, f"recipes/{stem}.py", "speed", "--synthetic", "--json", str(path)]
    environment = os.environ | {"FINISHLINE_CACHE": cache}
    done = subprocess.run(
        [*command, *limits], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode == 2:  # of later rounds: 8 B parameters are 30 GiB
        error = " ".join(done.stderr.split())
        assert "the network's weights need" in error
        assert "smaller network (--model.net.help lists its arguments)" in error
        assert stem not in V1
        return
    assert done.returncode == 0, done.stderr
    content = json.loads(path.read_text())
    assert content["figures"]["samples_per_second"] > 0
    assert content["figures"]["peak_memory_gib"] <= 10
    assert content["evaluation"]["ms_per_sample"] > 0
    assert any(line.startswith("batch size") for line in content["scaled"])
    assert ("own" in content) == (stem == "minigo")
