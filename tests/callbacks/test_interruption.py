"""Whatever a second signal cuts, run.json says INTERRUPTED: never running, never reached."""

import contextlib
import json
import os
import signal
from pathlib import Path

import lightning as L
import pytest

from callbacks.checkpoint import Checkpoint, LastCheckpoint
from callbacks.quality_target import QualityTarget, StopReason, StopRun
from callbacks.run_record import RunRecord
from callbacks.warm_up import WarmUp
from tests.toy import FakeTime, ToyData, ToyModule, fake_state, toy_trainer

FACTS = {"benchmark": "toy", "division": "open", "demo": True, "net": "tests.toy.Net"}


def send():
    os.kill(os.getpid(), signal.SIGTERM)


class Module(ToyModule):
    def training_step(self, batch, index):
        if self.script == [0.1] and len(self.losses) == 2:
            send()
        return super().training_step(batch, index)


def run(folder, score):
    """Train until the score 0.5, or until the signal of the third step."""
    state = fake_state(FakeTime())
    target = QualityTarget({"score": 0.5}, "max", state=state)
    checkpoint = Checkpoint(1e9, folder=lambda: folder, state=state, benchmark="toy")
    record = RunRecord(
        target=target, warm_up=WarmUp(), folder=lambda: folder, facts=lambda: FACTS, config={}
    )
    callbacks = [target, LastCheckpoint(checkpoint), record, checkpoint]
    with contextlib.suppress(StopRun, SystemExit):
        toy_trainer(callbacks, max_epochs=2).fit(Module([score]), ToyData())
    return json.loads((folder / "run.json").read_text()), state


@pytest.mark.parametrize("score", [0.1, 0.9], ids=["interrupted", "reached"])
def test_two_signals_during_the_last_checkpoint(score, tmp_path, monkeypatch):
    def save(trainer, path):
        send()
        if score == 0.9:
            send()
        raise AssertionError("went on writing")

    monkeypatch.setattr(L.Trainer, "save_checkpoint", save)
    facts, state = run(tmp_path, score)
    assert (facts["status"], facts["stop_reason"]) == ("aborted", "INTERRUPTED")
    assert facts["seconds_to_target"] is None
    assert state.stop_reason is StopReason.INTERRUPTED


@pytest.mark.parametrize(
    ("score", "reason"), [(0.1, "INTERRUPTED"), (0.9, "TARGET_REACHED")], ids=str
)
def test_signals_during_the_record_itself_have_no_effect(score, reason, tmp_path, monkeypatch):
    write = Path.write_text

    def slow(path, text, *args, **settings):
        if path.name == "run.new" and '"running"' not in text:
            send()
            send()
        return write(path, text, *args, **settings)

    monkeypatch.setattr(Path, "write_text", slow)
    facts, _ = run(tmp_path, score)
    assert facts["stop_reason"] == reason
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()
    assert not (tmp_path / "heartbeat").exists()
