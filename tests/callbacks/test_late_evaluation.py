"""A result that is known only while the next epoch trains: the clock stops then, not before."""

import json
import math
from concurrent.futures import Future

import lightning as L
import pytest

from callbacks.mlperf_log import MLPerfLog
from callbacks.quality_target import QualityTarget, StopReason, StopRun
from tests.callbacks.test_quality_target import write_log_of
from tests.toy import FakeTime, ToyData, ToyModule, fake_state, toy_trainer

KNOWN_AFTER = 4  # steps of the next epoch


class Late(ToyModule):
    """Its scores are known some steps into the next epoch, or when somebody waits for them."""

    late_metrics = None

    def on_validation_epoch_end(self):
        score = self.script[self.evaluations]
        self.evaluations += 1
        self.late_metrics = Waiting({"score": score, "other": 1 - score}, self.time)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if batch_idx + 1 == KNOWN_AFTER and self.late_metrics is not None:
            self.late_metrics.known = True


class Waiting(Future):
    def __init__(self, values, time):
        super().__init__()
        self.values, self.time, self.known = values, time, False

    def done(self):
        return self.known

    def result(self, timeout=None):
        if not self.known:
            self.time.now += 7.0  # of waiting
        return self.values


class Notes(L.Callback):
    def __init__(self, state):
        self.state, self.heard = state, []

    def on_late_evaluation(self, trainer, pl_module):
        self.heard.append((trainer.global_step, self.state.evaluations[-1].quality["score"]))


def run(folder, script, **settings):
    time = FakeTime()
    state = fake_state(time)
    target = QualityTarget({"score": 0.9}, "max", state=state)
    log: MLPerfLog = write_log_of(folder, state)
    module, notes = Late(script, time=time), Notes(state)
    trainer = toy_trainer([target, log, notes], **settings)
    stopped = None
    try:
        trainer.fit(module, datamodule=ToyData())
    except StopRun as stop:
        stopped = stop
    lines = [json.loads(x.split(" ", 1)[1]) for x in (folder / "result.txt").open()]
    return state, module, notes, lines, stopped


def test_the_clock_stops_at_the_step_that_finds_the_result(tmp_path):
    state, module, notes, lines, stopped = run(tmp_path, [0.5, 0.9, 0.95])
    # Two epochs of 6 s, two evaluations of 0.5 s, and 4 steps of the third epoch. Callbacks come
    # before the module's own hook, so that the step after the one that makes it known finds it.
    assert state.clock.seconds == pytest.approx(2 * (6 + 0.5) + KNOWN_AFTER + 1)
    assert stopped.reason is state.stop_reason is StopReason.TARGET_REACHED
    assert module.evaluations == 2
    assert len(module.losses) == 12 + KNOWN_AFTER + 1
    first, second = state.evaluations
    assert (second.epoch, second.step, second.samples) == (2, 12, 24), "of the weights it judged"
    assert second.seconds == state.clock.seconds, "when the result was known"
    assert first.seconds == pytest.approx(6.5 + KNOWN_AFTER + 1)
    assert state.eval_seconds == pytest.approx(1.0), "training went on meanwhile"
    assert notes.heard == [(KNOWN_AFTER + 7, 0.5), (12 + KNOWN_AFTER + 1, 0.9)]
    assert state.late is None
    keys = [line["key"] for line in lines]
    assert keys[-1] == "run_stop"
    assert lines[-1]["metadata"]["status"] == "success"
    values = [
        (x["value"], x["metadata"]["epoch_num"]) for x in lines if x["key"] == "eval_accuracy"
    ]
    assert values == [(0.5, 1), (0.9, 2)]
    times = [line["time_ms"] for line in lines]
    assert times == sorted(times)
    for name in ("epoch", "eval", "block"):
        assert keys.count(f"{name}_start") == keys.count(f"{name}_stop")
    stamp = {line["key"]: line["time_ms"] for line in lines}
    assert stamp["run_stop"] == stamp["eval_accuracy"]
    assert stamp["run_stop"] - stamp["run_start"] == pytest.approx(1000 * state.clock.seconds)


def test_a_result_that_comes_late_is_waited_for_before_the_next_evaluation(tmp_path, monkeypatch):
    monkeypatch.setattr(Late, "on_train_batch_end", lambda *args: None)
    state, module, notes, *_ = run(tmp_path, [0.9, 0.95])
    # The wait of 7 s is on the clock, as evaluation; the second one never starts.
    assert state.clock.seconds == pytest.approx(6 + 0.5 + 6 + 7)
    assert state.eval_seconds == pytest.approx(7.5)
    assert module.evaluations == 1
    assert [e.epoch for e in state.evaluations] == [1]
    assert state.stop_reason is StopReason.TARGET_REACHED


@pytest.mark.parametrize(
    ("last", "reason"), [(0.9, StopReason.TARGET_REACHED), (0.8, StopReason.BUDGET_EXHAUSTED)]
)
def test_the_last_result_is_waited_for_at_the_end(last, reason, tmp_path):
    state, _, _, lines, stopped = run(tmp_path, [0.1, last], max_epochs=2)
    assert state.stop_reason is reason
    assert stopped is None
    assert [e.quality["score"] for e in state.evaluations] == [0.1, last]
    assert state.clock.seconds == pytest.approx(2 * 6.5 + 7)
    status = lines[-1]["metadata"]["status"]
    assert status == ("success" if reason is StopReason.TARGET_REACHED else "aborted")


def test_a_late_result_that_is_not_finite_ends_the_run(tmp_path):
    *_, stopped = run(tmp_path, [math.nan, 0.9])
    assert stopped.reason is StopReason.NON_FINITE


def test_an_error_while_scoring_ends_the_run(tmp_path, monkeypatch):
    def fail(self, timeout=None):
        raise ValueError("a detection is not finite")

    monkeypatch.setattr(Waiting, "result", fail)
    with pytest.raises(ValueError, match="a detection is not finite"):
        run(tmp_path, [0.9])
