"""Mini Go end to end on the demo's files, small."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from callbacks.clock import RunClock
from datamodules.selfplay import SelfPlayDataModule
from datamodules.selfplay.go import players
from datamodules.selfplay.go.records import Examples
from datamodules.selfplay.window import make_generation
from modules.minigo import MiniGoModule
from modules.minigo import module as minigo
from modules.minigo.gtp import read_net
from modules.minigo.inference import GraphedNets
from modules.minigo.net import DualNet
from recipes.cli.main import run
from recipes.minigo import BENCHMARK
from tests.closed_log import compliance, write_log
from tests.tools.tensor_bundle_writer import save_bundle

DEMO = Path(__file__).parents[2] / "recipes/presets/minigo/demo.yaml"
SMALL = [
    "--config", str(DEMO), "--data.games_per_generation", "24", "--data.games_at_once", "16",
    "--data.eval_games", "8", "--data.batch_size", "32", "--trainer.accelerator", "cpu",
]  # fmt: skip


class Passive(nn.Module):
    """A net that knows nothing and cannot learn it."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, planes_BPnn):
        logits = self.bias * 0 + torch.zeros(len(planes_BPnn), 26, device=planes_BPnn.device)
        return logits, logits[:, 0]


def only_run(root: Path) -> Path:
    folders = list((root / "minigo").iterdir())
    assert len(folders) == 1
    return folders[0]


def three_generations(root: Path, *more: str) -> list[str]:
    """Arguments of a run that cannot reach its target."""
    return [
        "fit", *SMALL, "--output_root", str(root), "--seed_everything", "3",
        "--evaluation.limit", "3", "--target.metrics", '{"win_rate": 1.1}',
        "--checkpoint.every_seconds", "0", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of three generations that does not reach its target."""
    root = tmp_path_factory.mktemp("runs")
    return run(BENCHMARK, three_generations(root)), only_run(root)


def test_a_short_run_plays_trains_evaluates_and_leaves_its_files(finished):
    status, folder = finished
    assert status == 3
    record = json.loads((folder / "run.json").read_text())
    assert record["demo"] is True
    assert record["epochs"] == 3
    keys = [json.loads(x.split(" ", 1)[1])["key"] for x in (folder / "result.txt").open()]
    assert keys.count("eval_accuracy") == 3
    assert "actual_selfplay_games_per_generation" in keys


def test_the_start_loses_to_the_target(finished):
    assert rates_of(finished[1])[0] <= 0.3


def rates_of(folder: Path) -> list[float]:
    lines = [json.loads(x.split(" ", 1)[1]) for x in (folder / "result.txt").open()]
    return [line["value"] for line in lines if line["key"] == "eval_accuracy"]


def test_each_generations_games_are_logged_and_enough(finished):
    _, folder = finished
    lines = [json.loads(x.split(" ", 1)[1]) for x in (folder / "result.txt").open()]
    games = [x for x in lines if x["key"] == "actual_selfplay_games_per_generation"]
    assert [x["metadata"]["epoch_num"] for x in games] == [1, 2, 3]
    assert all(x["value"] >= 24 for x in games)


def test_a_failing_player_ends_the_run_and_a_resumed_one_ends_like_one_never_stopped(
    finished, tmp_path, monkeypatch, capsys
):
    played, calls = players._play, []

    def killed(worker, network, num_games):
        calls.append(num_games)
        if len(calls) == 2:  # the third epoch's games, half way through
            worker.play(network, num_games // 2)
            raise MemoryError("no memory for the games")
        return played(worker, network, num_games)

    with monkeypatch.context() as patched:
        patched.setattr(players, "_play", killed)
        assert run(BENCHMARK, three_generations(tmp_path / "a")) == 1
    assert "error: out of memory in self-play; reduce --data.games" in capsys.readouterr().err
    checkpoint = only_run(tmp_path / "a") / "checkpoints/last.ckpt"
    assert run(BENCHMARK, three_generations(tmp_path / "b", "--ckpt_path", str(checkpoint))) == 3
    resumed = only_run(tmp_path / "b")
    assert json.loads((resumed / "run.json").read_text())["resumed"] is True
    assert rates_of(resumed) == rates_of(finished[1])[2:]
    weights = [
        torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for folder in (resumed, finished[1])
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_all_graphs_are_captured_before_the_clock_starts(tmp_path, monkeypatch):
    order: list[str] = []
    mark = RunClock.mark

    def noted(clock, name, *more):
        order.append(name)
        return mark(clock, name, *more)

    def watched(*args, **settings):
        order.append("capture")
        return GraphedNets(*args, **settings)

    monkeypatch.setattr(RunClock, "mark", noted)
    monkeypatch.setattr(minigo, "GraphedNets", watched)
    more = ["--model.cuda_graph_play", "true", "--evaluation.limit", "2"]
    assert run(BENCHMARK, three_generations(tmp_path, *more)) == 3
    assert order.count("capture") == 3  # the players', and both sides of the match
    assert "capture" not in order[order.index("run_start") :]


def test_the_checkpoint_plays_go(finished):
    _, folder = finished
    net = read_net(folder / "checkpoints/last.ckpt")
    assert (net.size, len(net.blocks)) == (5, 2)
    with pytest.raises(ValueError, match="not a checkpoint of a dual network"):
        read_net(folder / "config.yaml")


def test_a_net_that_knows_nothing_does_not_reach_the_target(tmp_path):
    status = run(BENCHMARK, [
        "fit", "--config", str(DEMO), "--data.games_per_generation", "24",
        "--data.games_at_once", "16", "--data.batch_size", "32", "--data.eval_games", "16",
        "--trainer.accelerator", "cpu", "--output_root", str(tmp_path), "--seed_everything", "1",
        "--evaluation.limit", "2", "--model.net", f"{__name__}.Passive",
    ])  # fmt: skip
    assert status == 3


def test_closed_log_passes_the_official_checker(tmp_path):
    module, data = MiniGoModule(), SelfPlayDataModule(root=tmp_path)
    one = Examples(np.zeros((1, 13, 361)), np.zeros((1, 362)), np.zeros(1))
    data._generations = [make_generation(17, [one] * 8192)]
    path = write_log(
        tmp_path,
        BENCHMARK,
        module_facts=module.mllog_facts(),
        data_facts=data.mllog_facts() | data.mllog_epoch_facts(),
    )
    valid, messages = compliance(path)
    assert valid, messages


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--data.slow_readouts", "0"], "slow_readouts must be at least 1, got 0"),
        (["--model.eval_readouts", "0"], "eval_readouts"),
        (["--data.size", "9"], "networks are for 5"),
        (["--model.size", "9"], "model.net.size is 5 but model.size is 9"),
        (["--data.root", "/nowhere/at/all"], "is not a directory"),
    ],
)
def test_bad_input_gets_one_clear_line(flags, text, capsys, tmp_path):
    status = run(BENCHMARK, ["fit", *SMALL, "--output_root", str(tmp_path), *flags])
    assert status in (1, 2)
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        # The checker wants the very number, and the window takes as many of each generation.
        (["--data.games_per_generation", "9000"], "fixed at 8192"),
        (["--model.max_plies", "400"], "after 1,444 moves"),
        (["--model.pass_alive_plies", "20"], "after 133 moves"),
        (["--model.benson", "true"], "by the reference's pass-alive rule"),
        (["--data.benson", "true"], "search, window and filter are fixed"),
    ],
)
def test_declaring_closed_against_a_rule_is_refused(tmp_path, capsys, flags, words):
    args = ["fit", "--data.root", str(tmp_path), "--submission.division", "closed", *flags]
    assert run(BENCHMARK, args) == 2
    assert words in capsys.readouterr().err


def test_when_a_closed_run_gives_up_is_free():
    rule = next(r for r in BENCHMARK.closed if r.key == "evaluation.limit")
    assert rule.allows is not None
    assert rule.allows(54)


def test_every_closed_rule_names_a_setting_that_exists():
    import inspect

    known = {
        f"{group}.{name}"
        for group, kind in (("data", SelfPlayDataModule), ("model", MiniGoModule))
        for name in inspect.signature(kind).parameters
    }
    assert {rule.key for rule in BENCHMARK.closed} <= known | {"evaluation.limit"}


def test_gtp_command_names_a_missing_checkpoint(capsys):
    assert run(BENCHMARK, ["gtp", "--ckpt_path", "/nowhere.ckpt"]) == 1
    assert "/nowhere.ckpt: does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ([], "gtp: the following arguments are required: --ckpt_path"),
        (["--ckpt_path", "x", "--readouts", "many"], "gtp: argument --readouts: invalid int"),
        (["--ckpt_path", "x", "--dance", "1"], "gtp: unrecognized arguments: --dance 1"),
    ],
)
def test_a_wrong_flag_of_gtp_is_one_line(flags, line, capsys):
    assert run(BENCHMARK, ["gtp", *flags]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {line}")
    assert said.count("\n") == 1


def test_gtp_names_a_device_that_is_not_there(finished, capsys):
    checkpoint = str(finished[1] / "checkpoints/last.ckpt")
    assert run(BENCHMARK, ["gtp", "--ckpt_path", checkpoint, "--device", "abacus"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: --device abacus: torch cannot use it here: ")
    assert said.count("\n") == 1


def test_gtp_goes_on_after_bytes_that_are_not_text(finished, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO())
    lines = b"name \xff\xfe\n\xe9\n7 \x80name\nplay b \xb2\nversion\nquit\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines), "ascii"))
    monkeypatch.setattr("sys.stdout", out)
    checkpoint = str(finished[1] / "checkpoints/last.ckpt")
    assert run(BENCHMARK, ["gtp", "--ckpt_path", checkpoint, "--readouts", "2"]) == 0
    out.flush()
    assert out.buffer.getvalue().decode().split("\n\n") == [
        "= finishline", "? unknown command", "?7 unknown command", "? syntax error", "= Mini Go",
        "=", "",
    ]  # fmt: skip


def test_a_closed_run_does_not_start_on_other_games(tmp_path, capsys):
    data = SelfPlayDataModule(size=5, games_per_generation=24)
    data.prepare_data()
    flags = ["--data.root", str(data._source), "--output_root", str(tmp_path / "runs")]
    assert run(BENCHMARK, ["fit", *flags, "--trainer.accelerator", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "games of models 0 instead of 13 to 17; --submission.division open trains on it" in said
    assert said.count("\n") == 1


def test_a_target_of_another_board_is_refused_before_training(tmp_path, capsys):
    data = SelfPlayDataModule(size=5, games_per_generation=24)
    data.prepare_data()
    shutil.copytree(data._source, tmp_path / "given")
    save_bundle(DualNet(size=7, width=16, blocks=2, fc_width=16), tmp_path / "given/target")
    flags = ["--data.root", str(tmp_path / "given"), "--output_root", str(tmp_path / "runs")]
    assert run(BENCHMARK, ["fit", *SMALL, *flags]) == 1
    said = capsys.readouterr().err
    assert "given/target: its board is 7 x 7 but model.size is 5" in said


def test_default_net_is_the_reference():
    assert isinstance(MiniGoModule().net, DualNet)
