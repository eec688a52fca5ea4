"""The real W&B client in offline mode: what it wrote is read back."""

import json
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import yaml
from lightning.pytorch.loggers import WandbLogger

from callbacks import wandb_run
from recipes.cli import main as command_line
from recipes.cli.parser import RecipeCLI
from recipes.dlrm import BENCHMARK
from tests.recipes.wandb_file import records, values

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "docs" / "sweeps").glob("*.yaml"))
SHORT = ["--trainer.accelerator", "cpu", "--trainer.limit_train_batches", "4"]
OFF = ["--trainer.logger.log_model", "false"]
LOGGER = ["--trainer.logger", "WandbLogger", "--trainer.log_every_n_steps", "1"]


def fit(run_python, tmp_path, *extra):
    """A short run in a process of its own, as W&B's client keeps state in the process."""
    hidden = ("WANDB_MODE", "WANDB_API_KEY", "PL_GLOBAL_SEED")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = run_python(
        ["recipes/dlrm.py", "fit", *SHORT, *LOGGER, *extra, "--output_root", str(tmp_path)],
        env={**environment, "HOME": str(tmp_path)},
    )
    assert done.returncode == 3, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def world(tmp_path_factory, run_python):
    """One run, and one that goes on from its checkpoint."""
    root = tmp_path_factory.mktemp("wandb")
    first = fit(run_python, root, "--trainer.logger.log_model", "true", "--trainer.max_epochs", "1")
    (folder,) = (root / "dlrm").glob("*")
    checkpoint = str(folder / "checkpoints" / "last.ckpt")
    again = fit(run_python, root, "--ckpt_path", checkpoint, "--trainer.max_epochs", "2", *OFF)
    return root, folder, first, again


def written(root, number):
    folders = sorted((root / "wandb").glob("offline-run-*"), key=lambda f: f.stat().st_ctime)
    assert len(folders) == 2
    return records(next(folders[number].glob("*.wandb")))


def test_no_key_means_offline_and_is_said_once(world):
    _, _, first, _ = world
    assert first.stdout.count("No W&B key found") == 1
    assert "wandb sync" in first.stdout


def test_group_job_type_project_and_config(world):
    root, folder, _, _ = world
    found = written(root, 0)
    run = next(record.run for record in found if record.HasField("run"))
    assert (run.run_group, run.job_type, run.project) == ("dlrm", "open", "finishline")
    names = [record.run.display_name for record in found if record.HasField("run")]
    assert names[-1] == folder.name
    config = {}
    for record in found:
        for part in (record.run.config, record.config):
            config |= values(part.update)
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["model"]["learning_rate"] == saved["model"]["learning_rate"]
    assert config["seed_everything"] == saved["seed_everything"]


def test_history_has_losses_and_evaluations_on_the_clock(world):
    root, folder, _, _ = world
    rows = [values(r.history.item) for r in written(root, 0) if r.HasField("history")]
    record = json.loads((folder / "run.json").read_text())
    losses = [row for row in rows if "train/loss" in row]
    assert [row["trainer/global_step"] for row in losses][:2] == [0, 1]
    timed = [row for row in rows if "clock/seconds" in row]
    assert len(timed) == record["evaluations"] > 0
    assert timed[-1]["quality/auc"] == record["quality"]["auc"]
    assert timed[-1]["clock/samples"] == record["samples"]
    assert 0 < timed[-1]["clock/seconds"] <= record["seconds"]["total"]
    assert any("val/auc" in row for row in rows)


def test_summary_holds_the_records_figures(world):
    root, folder, _, _ = world
    summary = {}
    for record in written(root, 0):
        summary |= values(record.summary.update)
    facts = json.loads((folder / "run.json").read_text())
    assert summary["stop_reason"] == "BUDGET_EXHAUSTED"
    assert summary["division"] == "open"
    assert summary["demo"] is True
    assert summary["time_to_target_seconds"] is None
    assert summary["samples_per_second"] == pytest.approx(facts["samples_per_second"])


def artifacts(found):
    return {r.artifact.name: r.artifact for r in found if r.HasField("artifact")}


def test_artifacts_hold_log_record_curve_and_the_checkpoint_on_request(world):
    root, folder, _, _ = world
    first, second = artifacts(written(root, 0)), artifacts(written(root, 1))
    usual = {"dlrm-log", "dlrm-record", "dlrm-config", "dlrm-curve"}
    assert set(first) == usual | {"dlrm-checkpoint"}
    assert set(second) == usual
    entry = first["dlrm-log"].manifest.contents[0]
    assert entry.path == "result.txt"
    assert entry.size == (folder / "result.txt").stat().st_size
    assert first["dlrm-checkpoint"].type == "model"


def test_a_resumed_run_goes_on_in_its_wandb_run(world):
    root, folder, _, _ = world
    identifier = json.loads((folder / "run.json").read_text())["wandb_run"]
    for number in (0, 1):
        run = next(record.run for record in written(root, number) if record.HasField("run"))
        assert run.run_id == identifier
    resumed = max((root / "dlrm").glob("*"), key=lambda path: path.stat().st_ctime)
    saved = yaml.safe_load((resumed / "config.yaml").read_text())
    assert "id" not in saved["trainer"]["logger"]["init_args"], "a run again is another run"


def test_the_clients_banner_is_all_that_stderr_holds_beside_progress(world):
    _, _, first, _ = world
    own = re.compile(r"wandb: |epoch \d+ |AUC 0|.* \.\.\. [\d.]+ s")
    assert [line for line in first.stderr.splitlines() if line and not own.match(line)] == []
    assert "WARNING" not in first.stderr


def test_the_verdict_comes_last_and_a_pipe_gets_no_colours(world):
    for run in world[2:]:
        assert run.stdout.splitlines()[-1].startswith(("dlrm demo: target not reached", "runs/"))
        assert "wandb sync" in run.stderr
        assert "\x1b" not in run.stdout + run.stderr


def test_a_run_that_is_stopped_before_it_has_a_folder_begins_no_wandb_run(
    tmp_path, monkeypatch, capsys
):
    def stop(datamodule):
        raise KeyboardInterrupt

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(BENCHMARK.datamodule_class(), "prepare_data", stop)
    before = signal.getsignal(signal.SIGINT)
    try:
        assert (
            command_line.run(BENCHMARK, ["fit", *SHORT, *LOGGER, "--output_root", str(tmp_path)])
            == 130
        )
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning ignores it from the first Ctrl-C on
    assert capsys.readouterr().out.endswith("; nothing was written\n")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


OWN_RUN = """
import sys, wandb
from recipes.cli.main import run
from recipes.dlrm import BENCHMARK

with wandb.init(dir=sys.argv[1], mode="offline") as own:
    status = run(BENCHMARK, ["fit", *sys.argv[2:], "--output_root", sys.argv[1]])
    own.log({"after": 1})
print("STATUS", status, wandb.run)
"""


def test_a_wandb_run_of_the_users_own_is_left_open(tmp_path, run_python):
    few = ["--trainer.max_epochs", "1"]
    done = run_python(
        ["-c", OWN_RUN, str(tmp_path), *SHORT, *LOGGER, *few],
        env={**os.environ, "WANDB_MODE": "offline", "HOME": str(tmp_path)},
    )
    assert done.stdout.splitlines()[-1] == "STATUS 3 None", done.stdout + done.stderr
    (log,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    rows = [values(record.history.item) for record in records(log) if record.HasField("history")]
    assert rows[-1]["after"] == 1


@pytest.mark.parametrize("trouble", [OSError("no route to host"), KeyboardInterrupt()])
def test_trouble_in_sending_the_end_is_told_and_takes_no_verdict_away(trouble, capsys):
    logger = Mock(spec=WandbLogger)
    logger.experiment.finish.side_effect = trouble
    loggers = [logger]
    wandb_run.close(SimpleNamespace(is_global_zero=True, loggers=loggers), 0)
    told = str(trouble) or "interrupted"
    assert capsys.readouterr().err == f"W&B may be missing the end of this run: {told}\n"


def test_what_the_user_chose_is_kept(monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "none")
    flags = ["group", "mine", "project", "lab"]
    args = ["--trainer.logger", "WandbLogger"]
    for name, value in zip(flags[::2], flags[1::2], strict=True):
        args += [f"--trainer.logger.{name}", value]
    logger = RecipeCLI(BENCHMARK, "fit", args, build=False).config.trainer.logger
    settings = logger.init_args
    assert (settings.group, settings.project, settings.job_type) == ("mine", "lab", "open")
    assert settings.offline is False
    assert capsys.readouterr().out == ""


def combinations(sweep):
    """Every command that a grid asks for, put together by the client's own code."""
    from itertools import product

    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    names = list(sweep["parameters"])
    settings = [sweep["parameters"][name] for name in names]
    choices = [setting.get("values", [setting.get("value")]) for setting in settings]
    for chosen in product(*choices):
        args = {"args": {n: {"value": v} for n, v in zip(names, chosen, strict=True)}}
        yield create_sweep_command_args(args)["args"]


def test_sweeps_were_found():
    assert SWEEPS


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_command_of_a_sweep_parses(path):
    import importlib

    from wandb.sdk.launch.sweeps.utils import load_sweep_config

    sweep = load_sweep_config(str(path))
    assert sweep["method"] == "grid"
    stem = Path(sweep["program"]).stem
    benchmark = importlib.import_module(f"recipes.{stem}").BENCHMARK
    assert sweep["metric"]["name"] in {f"quality/{name}" for name in benchmark.metrics}
    before, after = (
        sweep["command"][: sweep["command"].index("${args}")],
        sweep["command"][sweep["command"].index("${args}") + 1 :],
    )
    assert before[:4] == ["${env}", "${interpreter}", "${program}", "fit"]
    commands = list(combinations(sweep))
    assert len(commands) > 1
    for args in commands:
        cli = RecipeCLI(benchmark, "fit", [*before[4:], *args, *after], build=False)
        assert cli.config.trainer.logger.class_path.endswith("WandbLogger")
