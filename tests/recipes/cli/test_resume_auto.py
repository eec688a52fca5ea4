"""``--ckpt_path auto``: the newest unfinished run of the same command, or a new one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recipes.cli.arguments import Arguments
from recipes.cli.parser import RecipeCLI
from recipes.cli.presets import demo_preset, with_default_preset
from recipes.cli.resume import find_resume
from recipes.cli.resume_auto import same_command
from recipes.cli.saved_config import config_text
from recipes.cli.unfinished import claim, newest_unfinished
from recipes.unet3d import BENCHMARK

DEMO = ("--config", str(demo_preset(BENCHMARK)))


@pytest.fixture(autouse=True)
def any_seed(monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED")


def leave(root, name, *words, seed=5, **record):
    """Leave a run of the demo as an interrupted process does."""
    folder = root / "unet3d" / name
    (folder / "checkpoints").mkdir(parents=True)
    torch.save({"step": 1}, folder / "checkpoints" / "last.ckpt")
    (folder / "run.json").write_text(json.dumps({"stop_reason": "INTERRUPTED", **record}))
    words = [*DEMO, "--seed_everything", str(seed), *words]
    cli = RecipeCLI(BENCHMARK, "fit", words, build=False)
    (folder / "config.yaml").write_text(config_text(cli))
    os.environ.pop("PL_GLOBAL_SEED")  # which parsing sets
    return folder


def auto(root, *words):
    arguments = Arguments([*DEMO, *words, "--ckpt_path", "auto", "--output_root", str(root)])
    return find_resume("unet3d", arguments, auto=lambda *args: same_command(BENCHMARK, *args))


def folder(root, *words):
    """As ``auto``, but leave the run to others at once."""
    found = auto(root, *words)
    if found.claim:
        found.claim.close()
    return found.folder


def test_without_a_run_it_starts_anew_and_says_so(tmp_path, capsys):
    found = auto(tmp_path / "none")
    assert "--ckpt_path" not in found.arguments
    assert found.folder is None
    line = capsys.readouterr().out
    assert line == (
        "--ckpt_path auto: starting anew; no run to resume in "
        f"{tmp_path / 'none' / 'unet3d'} (0 runs, 0 unfinished, 0 of them running)\n"
    )


def test_the_newest_unfinished_run_goes_on_with_its_seed(tmp_path, capsys):
    leave(tmp_path, "20260101-000000-seed5")
    wanted = leave(tmp_path, "20260102-000000-seed6", seed=6)
    leave(tmp_path, "20260103-000000-seed7", seed=7, stop_reason="TARGET_REACHED")
    found = auto(tmp_path)
    assert found.folder == wanted
    assert found.arguments.value("--ckpt_path") == str(wanted / "checkpoints" / "last.ckpt")
    assert found.arguments.value("--seed_everything") == "6"
    assert capsys.readouterr().out == f"--ckpt_path auto: resuming {wanted}\n"


def test_a_finished_run_is_not_resumed(tmp_path):
    leave(tmp_path, "20260101-000000-seed5", stop_reason="TARGET_REACHED")
    assert folder(tmp_path) is None


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--model.learning_rate", "0.3"], "model.learning_rate 0.3 instead of 0.2"),
        (["--model.net", "torch.nn.Identity"], "model.net torch.nn.Identity instead of"),
        (["--trainer.accumulate_grad_batches", "3", "--trainer.devices", "1"], None),
    ],
)
def test_a_run_with_other_settings_is_passed_over(words, line, tmp_path, capsys):
    """What a flag left out would take from that run is nobody's wish in a job script."""
    same = leave(tmp_path, "20260101-000000-seed5", "--trainer.devices", "1")
    leave(tmp_path, "20260102-000000-seed6", *words, seed=6)
    assert folder(tmp_path, "--trainer.devices", "1") == same
    (same / "run.json").unlink()
    capsys.readouterr()
    assert folder(tmp_path, "--trainer.devices", "1") is None
    out = capsys.readouterr().out
    assert (line or "global batch size 6 instead of 2") in out
    assert out.count("\n") == 1
    assert folder(tmp_path, *words, "--trainer.devices", "1").name == "20260102-000000-seed6"


def test_a_seed_that_is_given_chooses_its_run(tmp_path, monkeypatch):
    wanted = leave(tmp_path, "20260101-000000-seed5")
    leave(tmp_path, "20260102-000000-seed6", seed=6)
    assert folder(tmp_path, "--seed_everything", "5") == wanted
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")  # as an array of jobs may
    assert folder(tmp_path) == wanted
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert folder(tmp_path) is None


def test_a_damaged_run_gives_way_to_the_one_before(tmp_path, capsys):
    wanted = leave(tmp_path, "20260101-000000-seed5")
    damaged = leave(tmp_path, "20260102-000000-seed6") / "checkpoints"
    for name in ("last.ckpt", "previous.ckpt"):
        (damaged / name).write_bytes(b"PK")
    assert folder(tmp_path) == wanted
    (wanted / "run.json").unlink()
    assert folder(tmp_path) is None
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.endswith("previous.ckpt is truncated or not a checkpoint)")


OTHER_JOB = """
import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.flock(file, fcntl.LOCK_EX)
print("claimed", flush=True)
sys.stdin.read()
"""


def test_two_jobs_do_not_resume_the_same_run(tmp_path, capsys):
    older = leave(tmp_path, "20260101-000000-seed5")
    newer = leave(tmp_path, "20260102-000000-seed6")
    command = [sys.executable, "-c", OTHER_JOB, str(newer / "run.json")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as other:
        assert other.stdout.readline() == "claimed\n"
        assert claim(newer) is None
        assert newest_unfinished(tmp_path / "unet3d") == older
        held = auto(tmp_path)
        assert held.folder == older
        assert folder(tmp_path) is None
        assert "2 unfinished, 2 of them running" in capsys.readouterr().out
        other.stdin.close()
    assert folder(tmp_path) == newer


def test_a_directory_of_runs_may_be_named_in_a_file(tmp_path):
    wanted = leave(tmp_path / "elsewhere", "20260101-000000-seed5")
    file = tmp_path / "site.yaml"
    file.write_text(f"output_root: {tmp_path / 'elsewhere'}\n")
    words = ["--config", str(file), "--ckpt_path", "last"]
    assert find_resume("unet3d", Arguments(words)).folder == wanted


def test_without_data_auto_means_the_demo():
    words = with_default_preset(BENCHMARK, "fit", Arguments(["--ckpt_path", "auto"])).words
    assert words == (*DEMO, "--ckpt_path", "auto")
    given = Arguments(["--ckpt_path", "auto", "--data.root", str(Path("x"))])
    assert with_default_preset(BENCHMARK, "fit", given) is given
