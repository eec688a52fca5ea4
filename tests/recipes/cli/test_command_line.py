"""Bad input gets one clear line and the right exit status."""

import contextlib
import json
import os
import platform
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest
import torch

from callbacks.clock import process_start
from datamodules.common.sampling import run_seed
from modules.unet3d import UNet3DModule
from modules.unet3d.net import UNet3D
from recipes.cli.arguments import Arguments
from recipes.cli.checks import check_weights
from recipes.cli.main import _one_line, run
from recipes.cli.parser import RecipeCLI
from recipes.cli.resume import find_resume, newest_unfinished
from recipes.cli.usage import explain
from recipes.unet3d import BENCHMARK

DEMO = ["--config", str(Path(__file__).parents[3] / "recipes/presets/unet3d/demo.yaml")]


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (["fti"], 2, "unknown command 'fti'; did you mean fit?"),
        (["fit", "--model.learning_rat", "3"], 2, "did you mean --model.learning_rate?"),
        (
            ["fit", "learning_rate=3"],
            2,
            "unexpected argument 'learning_rate=3': options start with --",
        ),
        (["fit", "--model.learning_rate", "abc"], 2, "--model.learning_rate: got abc"),
        (["fit", "--model.net", "my.Net"], 2, "cannot import my.Net (No module named 'my')"),
        (
            ["fit", "--model.net", "monai.networks.nets.DynUNet"],
            2,
            "DynUNet needs --model.net.kernel_size, --model.net.strides, ",
        ),
        (["fit", "--submission.division", "Closed"], 2, "allowed: auto, closed, open"),
        (["fit", *DEMO, "--trainer.use_distributed_sampler", "true"], 2, "a share of its share"),
        (["fit", *DEMO, "--target.metrics", '{"dicee": 0.5}'], 2, "benchmark measures: dice_"),
        (["fit", "--data.root", "/nowhere"], 1, "git clone https://github.com/neheller/kits19"),
        (["fit", *DEMO, "--ckpt_path", "/nowhere.ckpt"], 2, "no file /nowhere.ckpt"),
        (["fit", *DEMO, "--trainer.devices", "999"], 2, "999: this machine has "),
        (["fit", *DEMO, "--trainer.devices", "999", "--trainer.accelerator", "cpu"], 2, "cores"),
        (["fit", *DEMO, "--trainer.devices", "999", "--trainer.accelerator", "cuda"], 2, "CUDA"),
        (["fit", *DEMO, "--trainer.strategy", "dpp"], 2, "invalid strategy name"),
        (["fit", *DEMO, "--trainer.max_epochs", "two"], 2, "got two, allowed: int, None"),
        (["fit", *DEMO, "--trainer.precision", "bf17"], 2, "bf16-mixed, 32-true"),
        (["fit", *DEMO, "--trainer.logger", "WanDbLogger"], 2, "got WanDbLogger, allowed: Logger"),
        (["prepare", "--config", "/nowhere.yaml"], 2, "/nowhere.yaml: No such file"),
        (["fit", *DEMO, "--data.batch_size", "0"], 2, "batch_size must be at least 1"),
        (["fit", "--submission.division", "closed"], 2, "--data.root DIR"),
        (["validate"], 2, "validate needs --ckpt_path"),
        (["validate", *DEMO], 2, "validate needs --ckpt_path"),
        (["prepare", "--data.rot", "x"], 2, "did you mean --data.root?"),
        (["fit", *DEMO, "--trainer.max_epochs", "0"], 2, "--trainer.max_epochs 0: nothing would"),
        (["fit", *DEMO, "--trainer.max_steps", "0"], 2, "--trainer.max_steps 0: nothing would"),
        (["fit", *DEMO, "--trainer.limit_train_batches", "0"], 2, "limit_train_batches 0: nothing"),
        (["fit", *DEMO, "--trainer.accumulate_grad_batches", "0"], 2, "takes at least 1 batch"),
        (["fit", *DEMO, "--cost_per_hour", "-1"], 2, "--cost_per_hour -1.0: give 0 or more"),
        (["fit", *DEMO, "--cost_per_hour", ".inf"], 2, "--cost_per_hour inf: give 0 or more"),
        (["speed", *DEMO, "--steps", "1"], 2, "--steps must be at least 2"),
    ],
)
def test_bad_input_gets_one_line(args, status, words, tmp_path, capsys):
    if args[0] == "fit":
        args = [*args, "--output_root", str(tmp_path)]
    assert run(BENCHMARK, args) == status
    lines = capsys.readouterr().err.strip().splitlines()
    assert words in lines[-1]
    assert lines[-1].startswith("error: ")
    assert not any("Traceback" in line for line in lines)


NOWHERE = "--output_root /dev/null --trainer.accelerator cpu"
DEMO_LINE = "Demo on generated data (real: python recipes/unet3d.py {} --data.root DIR)\n"


@pytest.mark.parametrize(
    "words",
    [
        "validate",
        "speed --steps 1",
        "fit --data.rot x",
        "fit --help",
        f"fit {NOWHERE}",
    ],
)
def test_a_demo_that_does_not_run_is_not_announced(words, capsys):
    with contextlib.suppress(SystemExit):  # of the help
        assert run(BENCHMARK, words.split()) in (1, 2)
    assert "Demo on" not in capsys.readouterr().out


def test_the_demo_is_announced_once_where_it_runs(tmp_path, capsys):
    fast = ["--trainer.fast_dev_run", "true", "--trainer.accelerator", "cpu"]
    assert run(BENCHMARK, ["fit", *fast, "--output_root", str(tmp_path)]) == 3
    out = capsys.readouterr().out
    assert out.count(DEMO_LINE.format("fit")) == out.count("Demo on") == 1
    assert out.splitlines()[-1].startswith("unet3d demo: target not reached, mean_dice ")


def test_a_preset_that_is_no_yaml_is_named(tmp_path, capsys):
    preset = tmp_path / "mine.yaml"
    preset.write_text("model: {learning_rate: [1,")
    for command in ("fit", "doctor"):
        assert run(BENCHMARK, [command, f"--config={preset}"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: --config {preset}: while parsing")


def test_unknown_key_in_a_preset_names_the_key(tmp_path, capsys):
    preset = tmp_path / "bad.yaml"
    preset.write_text("model:\n  learning_rat: 3\n")
    assert run(BENCHMARK, ["fit", "--config", str(preset)]) == 2
    err = capsys.readouterr().err
    assert "unknown key model.learning_rat in the configuration" in err
    assert "did you mean model.learning_rate?" in err


@pytest.mark.parametrize(
    ("command", "text", "meant"),
    [
        ("fit", "data:\n  batch_sise: 3\n", "data.batch_size"),
        ("fit", "modle:\n  momentum: 3\n", "model.momentum"),
        ("prepare", "data:\n  batch_sise: 3\n", "data.batch_size"),
        ("doctor", "data:\n  batch_sise: 3\n", "data.batch_size"),
    ],
)
def test_unknown_keys_are_named_by_every_command(command, text, meant, tmp_path, capsys):
    preset = tmp_path / "bad.yaml"
    preset.write_text(text)
    assert run(BENCHMARK, [command, "--config", str(preset)]) == 2
    assert f"did you mean {meant}?" in capsys.readouterr().err


def test_checkpoint_in_the_run_folder_of_another_benchmark(tmp_path, capsys):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text("model:\n  initial_learning_rate: 1\n")
    checkpoint = folder / "checkpoints" / "last.ckpt"
    torch.save({"finishline_benchmark": "rnnt"}, checkpoint)
    for command in ("fit", "validate"):
        assert run(BENCHMARK, [command, "--ckpt_path", str(checkpoint)]) == 2
        assert "was written by rnnt, not by unet3d" in capsys.readouterr().err
    torch.save({"finishline_benchmark": "unet3d"}, checkpoint)
    assert run(BENCHMARK, ["validate", "--ckpt_path", str(checkpoint)]) == 1
    assert "last.ckpt holds no weights" in capsys.readouterr().err
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    assert run(BENCHMARK, ["validate", "--ckpt_path", str(checkpoint)]) == 1
    assert "is truncated or not a checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_checkpoint_of_another_network_is_named_in_one_line(command, tmp_path, capsys):
    checkpoint = tmp_path / "copied.ckpt"
    weights = UNet3DModule(net=partial(UNet3D, filters=(8, 16))).state_dict()
    torch.save({"finishline_benchmark": "unet3d", "state_dict": weights}, checkpoint)
    args = [command, *DEMO, "--ckpt_path", str(checkpoint), "--output_root", str(tmp_path)]
    assert run(BENCHMARK, args) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error")]
    assert "copied.ckpt holds the weights of another network: net." in line
    assert "pass its run's config.yaml with --config FILE" in line


def test_weights_that_the_network_does_not_have_are_named_in_one_line(tmp_path, capsys):
    checkpoint = tmp_path / "copied.ckpt"
    cli = RecipeCLI(BENCHMARK, "fit", DEMO)
    weights = {**cli.model.state_dict(), "net.more": torch.zeros(2)}
    torch.save({"finishline_benchmark": "unet3d", "state_dict": weights}, checkpoint)
    assert run(BENCHMARK, ["validate", *DEMO, "--ckpt_path", str(checkpoint)]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "of another network: net.more is not one of the network's; pass its run's" in error


class Lazy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.LazyConv3d(3, 1)

    def forward(self, x):
        return self.layer(x)


def test_weights_of_layers_without_a_size_are_taken_from_the_checkpoint(tmp_path):
    checkpoint = tmp_path / "last.ckpt"
    model, whole = UNet3DModule(net=Lazy), UNet3DModule(net=Lazy)
    whole.net(torch.zeros(1, 1, 2, 2, 2))
    torch.save({"state_dict": whole.state_dict()}, checkpoint)
    check_weights(model, checkpoint)
    model.load_state_dict(whole.state_dict())
    assert torch.equal(model.net.layer.weight, whole.net.layer.weight)


def test_checkpoint_outside_of_a_run_folder_is_told(tmp_path, capsys):
    checkpoint = tmp_path / "copied.ckpt"
    torch.save({"finishline_benchmark": "unet3d", "state_dict": {}}, checkpoint)
    assert run(BENCHMARK, ["validate", "--ckpt_path", str(checkpoint)]) == 1
    assert (
        "its run's settings are unknown; pass its config.yaml with --config FILE"
        in capsys.readouterr().out
    )


def test_unwritable_output_root_says_what_to_do(tmp_path, capsys):
    blocker = tmp_path / "file"
    blocker.write_text("")
    status = run(BENCHMARK, ["fit", *DEMO, "--output_root", str(blocker)])
    assert status == 1
    assert "choose a writable directory with --output_root" in capsys.readouterr().err


def test_interrupted_preparation_says_that_nothing_is_lost(monkeypatch, capsys):
    def stop(datamodule):
        raise KeyboardInterrupt

    monkeypatch.setattr(BENCHMARK.datamodule_class(), "prepare", stop)
    assert run(BENCHMARK, ["prepare"]) == 130
    assert capsys.readouterr().err == "error: interrupted; run the same command again to continue\n"


def test_debug_shows_the_traceback(capsys, tmp_path):
    args = ["fit", "--data.root", "/nowhere", "--output_root", str(tmp_path), "--debug"]
    assert run(BENCHMARK, args) == 1
    assert "Traceback" in capsys.readouterr().err


def test_last_without_a_run_says_where_it_looked(tmp_path, capsys):
    args = ["fit", "--ckpt_path", "last", "--output_root", str(tmp_path)]
    assert run(BENCHMARK, args) == 2
    assert f"no unfinished run with a checkpoint in {tmp_path}" in capsys.readouterr().err


def test_newest_unfinished_skips_finished_and_continued_runs(tmp_path):
    def make(name, text, checkpoint=True):
        folder = tmp_path / name
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "run.json").write_text(text)
        if checkpoint:
            (folder / "checkpoints" / "last.ckpt").write_text("x")
        return folder

    wanted = make("20260101-000000-seed1", '{"stop_reason": "INTERRUPTED"}')
    continued = make("20260102-000000-seed2", '{"stop_reason": null}')
    make(
        "20260103-000000-seed2",
        f'{{"stop_reason": "TARGET_REACHED", "resumed_from": "{continued}"}}',
    )
    lost = f'{{"stop_reason": null, "resumed_from": "{wanted}"}}'
    make("20260103-000001-seed3", lost, checkpoint=False)
    make("20260104-000000-seed4", '{"stop_reason": null}', checkpoint=False)
    assert newest_unfinished(tmp_path) == wanted
    damaged = make("20260105-000000-seed5", "{cut sho")
    assert newest_unfinished(tmp_path) == damaged
    process = {"pid": 0, "host": platform.node()}
    with subprocess.Popen(["sleep", "60"]) as other:
        process["pid"] = other.pid
        text = json.dumps({"status": "running", "process": process})
        going_on = make("20260106-000000-seed6", text)
        assert newest_unfinished(tmp_path) == damaged
        process["started"] = process_start(other.pid)
        (going_on / "run.json").write_text(json.dumps({"status": "running", "process": process}))
        assert newest_unfinished(tmp_path) == damaged
        # Another process has its number now, such as another rank of a container's second life.
        process["started"] = 0
        (going_on / "run.json").write_text(json.dumps({"status": "running", "process": process}))
        assert newest_unfinished(tmp_path) == (going_on if process_start(other.pid) else damaged)
        other.kill()
    assert newest_unfinished(tmp_path) == going_on
    # The number of a container's first process is that of its earlier life.
    process["pid"] = os.getpid()
    (going_on / "run.json").write_text(json.dumps({"status": "running", "process": process}))
    assert newest_unfinished(tmp_path) == going_on


def test_a_run_goes_on_with_its_own_seed_also_where_a_configuration_is_named(tmp_path):
    folder = tmp_path / "unet3d" / "20260101-000000-seed7"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").write_text("x")
    (folder / "run.json").write_text("{}")
    (folder / "config.yaml").write_text(
        "seed_everything: 7\nmodel:\n  momentum: 0.5\n  learning_rate: 3.0\n"
    )
    again = [*DEMO, "--ckpt_path", "last", "--output_root", str(tmp_path)]
    config = RecipeCLI(
        BENCHMARK, "fit", find_resume("unet3d", Arguments(again)).arguments, build=False
    ).config
    assert config.seed_everything == 7
    assert config.model.momentum == 0.5
    assert config.model.learning_rate == 0.2, "the preset named now wins"


def test_a_second_run_of_a_process_draws_its_own_seed_unless_one_is_given(monkeypatch, capsys):
    seeds = [11, 12, 13]
    monkeypatch.setattr("recipes.cli.parser.fresh_seed", lambda: seeds.pop(0))
    used: list[int] = []
    monkeypatch.setattr("recipes.cli.train.check_foreign_net", lambda cli: used.append(run_seed()))
    monkeypatch.setattr("recipes.cli.train.Run", None)  # ends a run before it trains
    for given in ({}, {}, {"PL_GLOBAL_SEED": "7"}):
        monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        assert run(BENCHMARK, ["fit", *DEMO]) == 1
        assert os.environ.get("PL_GLOBAL_SEED") == given.get("PL_GLOBAL_SEED")
    assert used == [11, 12, 7]


def test_several_devices_without_a_strategy_get_our_ddp():
    cpu = ["--trainer.accelerator", "cpu", "--trainer.devices", "2"]
    trainer = RecipeCLI(BENCHMARK, "fit", [*DEMO, *cpu]).build_trainer(logger=False)
    assert trainer.strategy._ddp_kwargs["broadcast_buffers"] is False


def test_explain_leaves_other_messages_in_one_line():
    assert explain("some\n  thing else", [], Arguments([])) == "some thing else"


class _Refuses(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise ValueError("DIR/a.jpg cannot be decoded; unpack it again")


def test_error_of_a_loader_process_is_as_short_as_that_of_the_run_itself():
    with pytest.raises(ValueError, match="Traceback") as error:
        list(torch.utils.data.DataLoader(_Refuses(), num_workers=1))
    assert _one_line(error.value) == "DIR/a.jpg cannot be decoded; unpack it again"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_training_says_a_word(number, monkeypatch, capsys, hang_up_counts):
    monkeypatch.setattr(
        "recipes.cli.train.check_named_checkpoint", lambda *_: os.kill(os.getpid(), number)
    )
    before = signal.getsignal(number)
    assert run(BENCHMARK, ["fit", *DEMO]) == 130
    assert capsys.readouterr().err == "error: interrupted before training began\n"
    assert signal.getsignal(number) is before
