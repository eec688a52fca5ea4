"""Kill runs anywhere and fill their disk anywhere: they go on to the bit, or say why not."""

import json
import os
import resource
import sys
from pathlib import Path

import lightning as L
import pytest
import torch

from callbacks.checkpoint import Checkpoint, LastCheckpoint
from callbacks.checkpoint_files import checkpoint_of
from callbacks.evaluation_schedule import EvaluationSchedule
from callbacks.metrics_csv import MetricsCSV
from callbacks.mlperf_log import MLPerfLog
from callbacks.quality_target import QualityTarget, StopReason, StopRun
from callbacks.run_record import RunRecord
from callbacks.warm_up import WarmUp
from modules.common.torch_file import load_verified
from recipes.cli.environment import Unfailing
from recipes.cli.resume import sound_checkpoint
from tests.callbacks.test_checkpoint import Noisy, SampledData
from tests.faults.harness import Events, Outcomes, in_child, rounds
from tests.toy import FakeTime, fake_state, toy_trainer

pytestmark = pytest.mark.fault
FACTS = {"benchmark": "toy", "division": "open", "demo": True, "net": "tests.toy.Net"}
EPOCHS, STEPS_PER_EPOCH = 3, 6


def train(folder, start=None, more=()):
    """Train the toy in a directory with all that a run writes, and note losses and weights."""
    torch.manual_seed(3)
    time = FakeTime()
    state, module = fake_state(time), Noisy()
    module.load_state_dict(torch.load(folder.parent / "start.pt", weights_only=True))
    module.tick = lambda: setattr(time, "now", time.now + 1)
    schedule = EvaluationSchedule(every=1, limit=EPOCHS)
    target = QualityTarget({"score": 1.0}, "max", state=state)
    where = {"folder": lambda: folder}
    checkpoint = Checkpoint(0.0, state=state, benchmark="toy", **where)
    log = MLPerfLog(
        benchmark="toy", state=state, schedule=schedule, division=lambda: "open", submission={},
        **where,
    )  # fmt: skip
    record = RunRecord(target=target, warm_up=WarmUp(), facts=lambda: FACTS, config={}, **where)
    callbacks = [schedule, target, log, LastCheckpoint(checkpoint), record, checkpoint, *more]
    logger = MetricsCSV(state, lambda: folder)
    trainer = toy_trainer(callbacks, max_epochs=-1, logger=logger)
    try:
        trainer.fit(module, datamodule=SampledData(), ckpt_path=start, weights_only=True)
    except StopRun as stop:
        if stop.reason is not StopReason.BUDGET_EXHAUSTED:
            raise
    torch.save({"losses": module.losses, "state": module.state_dict()}, folder.parent / "result.pt")


@pytest.fixture
def whole(tmp_path):
    """Result of a run that nobody disturbs."""
    torch.save(Noisy().state_dict(), tmp_path / "start.pt")
    (tmp_path / "whole").mkdir()
    assert in_child(lambda: train(tmp_path / "whole")) == 0
    return torch.load(tmp_path / "result.pt", weights_only=True)


def watched(folder, events):
    """Train with every call that makes a file appear watched."""
    L.Trainer.save_checkpoint = _on_path(events.watch(L.Trainer.save_checkpoint))
    Path.write_text = events.watch(Path.write_text)
    os.replace, os.fsync = events.watch(os.replace), events.watch(os.fsync)
    train(folder)
    (folder.parent / "count").open("w").write(str(events.count))


def _on_path(save):
    return lambda trainer, path, *args, **settings: save(trainer, path, *args, **settings)


def equal_to(whole, folder, outcomes, name):
    """Resume a killed run and compare."""
    record = folder / "run.json"
    if record.exists():
        assert json.loads(record.read_text())["status"] in ("running", "aborted")
    start = sound_checkpoint(folder) if checkpoint_of(folder) else None
    again = folder.with_name(f"{folder.name}-resumed")
    again.mkdir()
    assert in_child(lambda: train(again, start)) == 0, f"{name}: not resumed"
    result = torch.load(folder.parent / "result.pt", weights_only=True)
    done = len(whole["losses"]) - len(result["losses"])
    same = result["losses"] == whole["losses"][done:] and all(
        torch.equal(value, whole["state"][key]) for key, value in result["state"].items()
    )
    outcomes["from the start" if start is None else f"{name}, to the bit"] += same
    outcomes["SILENT"] += not same


def test_runs_killed_anywhere_go_on_to_the_bit(whole, tmp_path):
    outcomes = Outcomes()
    counted = tmp_path / "counted"
    counted.mkdir()
    assert in_child(lambda: watched(counted, Events(None, None))) == 0
    count = int((tmp_path / "count").read_text())
    assert count > 10
    for number, draw in enumerate(rounds()):
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        if number % 2:
            events = Events(draw.randrange(count), draw)
            assert in_child(lambda f=folder, e=events: watched(f, e)) == -9
            equal_to(whole, folder, outcomes, "killed inside writes")
        else:
            in_child(lambda f=folder: train(f), killed_after=draw.uniform(0.0, 0.6))
            equal_to(whole, folder, outcomes, "killed at a moment")
    outcomes.assert_none_silent("kills of runs")


class Fill(L.Callback):
    """Let no file grow beyond a size from a step on, as a full disk or a quota does."""

    def __init__(self, step, size):
        self.step, self.size = step, size

    def on_fit_start(self, trainer, module):
        self._fill(-1)

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self._fill(trainer.global_step)

    def _fill(self, step):
        if step == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.RLIM_INFINITY))


def filled(folder, fill):
    """Train on a disk that fills, and note the error; the note is written before it does."""
    note = (folder.parent / "error").open("w+")
    note.write(" " * 4000)
    note.flush()
    note.seek(0)
    sys.stderr = Unfailing(sys.stderr)  # as in a run: the limit holds for pytest's capture too
    try:
        train(folder, more=[fill])
    except OSError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        note.write(str(error).replace("\n", "\\n"))
        note.flush()


@pytest.mark.parametrize("first", [-1, None], ids=["at the start", "while training"])
def test_a_full_disk_is_named_by_every_writer(first, whole, tmp_path):
    outcomes, named = Outcomes(), set()
    for number, draw in enumerate(rounds()):
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        step = draw.randrange(1, EPOCHS * STEPS_PER_EPOCH) if first is None else first
        fill = Fill(step, int(10 ** draw.uniform(0, 5)))
        in_child(lambda f=folder, fill=fill: filled(f, fill))
        line = (tmp_path / "error").read_text().strip()
        if line:
            good = line.startswith(f"{folder}/") and "cannot be written (File too large)" in line
            good &= "choose another directory with --output_root DIR" in line
            named.add(line.partition(" cannot")[0].rpartition("/")[2])
        else:  # the files stayed smaller
            good = '"run_stop"' in (folder / "result.txt").read_text()
            last = load_verified(folder / "checkpoints" / "last.ckpt")
            good &= last["global_step"] == EPOCHS * STEPS_PER_EPOCH
        for path in folder.glob("checkpoints/*.ckpt"):
            load_verified(path)
        outcomes["named" if line else "had room"] += good
        outcomes["SILENT"] += not good
    outcomes.assert_none_silent(f"full disk, written: {', '.join(sorted(named))}")
    assert named


@pytest.mark.parametrize("name", ["metrics.csv", "run.new", "checkpoints/last.ckpt.new"])
def test_each_file_of_a_run_on_a_full_disk_is_named(name, whole, tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / name).symlink_to("/dev/full")
    note = tmp_path / "note"

    def work():
        try:
            train(folder)
        except OSError as error:
            note.write_text(str(error))

    assert in_child(work) == 0
    path = folder / name.replace("run.new", "run.json").replace(".ckpt.new", ".ckpt")
    assert note.read_text().startswith(f"{path} cannot be written (No space left on device), ")
    status = json.loads((folder / "run.json").read_text()) if name != "run.new" else {}
    assert status.get("status") != "success"


def test_a_curve_on_a_full_disk_is_named_and_the_run_is_complete(whole, tmp_path, capfd):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "curve.png").symlink_to("/dev/full")
    capfd.readouterr()
    assert in_child(lambda: train(folder)) == 0
    line = f"Warning: {folder / 'curve.png'} cannot be written (No space left on device), "
    assert line in capfd.readouterr().err
    assert '"run_stop"' in (folder / "result.txt").read_text()
    assert json.loads((folder / "run.json").read_text())["stop_reason"] == "BUDGET_EXHAUSTED"
