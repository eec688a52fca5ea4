"""The clock and the decision, with a fake clock and scripted metrics."""

import json
import math
import os
import signal
from types import SimpleNamespace

import pytest
import torch

from callbacks.checkpoint import Checkpoint
from callbacks.clock import RunClock, seconds_since_process_start
from callbacks.evaluation_schedule import EvaluationSchedule
from callbacks.mlperf_log import MLPerfLog
from callbacks.quality_target import QualityTarget, StopReason, StopRun
from tests.toy import FakeTime, ToyData, ToyModule, fake_state, toy_trainer


def train(script, *, metrics=None, mode="max", callbacks=(), **settings):
    time = FakeTime()
    state = fake_state(time)
    target = QualityTarget(metrics or {"score": 0.908}, mode, state=state)
    module = ToyModule(script, time=time)
    toy_trainer([target, *callbacks], **settings).fit(module, datamodule=ToyData())
    return state, module


def test_reached_exactly_at_the_target_stops_after_that_evaluation():
    state, module = train([0.5, 0.9, 0.908, 0.95])
    assert state.stop_reason is StopReason.TARGET_REACHED
    assert module.evaluations == 3
    # Three epochs of 6 steps (1 s) and 2 evaluation batches (0.25 s).
    assert state.clock.seconds == pytest.approx(3 * (6 + 0.5))
    assert state.eval_seconds == pytest.approx(1.5)
    assert state.samples == 36
    assert [e.epoch for e in state.evaluations] == [1, 2, 3]


def test_clock_of_a_module_that_stops_at_its_weights_leaves_the_last_evaluation_out(tmp_path):
    class Weights(ToyModule):
        stops_at_weights = True

    time = FakeTime()
    state = fake_state(time)
    target = QualityTarget({"score": 0.9}, "max", state=state)
    log = write_log_of(tmp_path, state)
    toy_trainer([target, log]).fit(Weights([0.5, 0.9], time=time), datamodule=ToyData())
    assert state.clock.seconds == pytest.approx(6 + 0.5 + 6)
    assert state.eval_seconds == pytest.approx(0.5)
    assert state.evaluations[-1].seconds == pytest.approx(12.5)
    lines = [json.loads(x.split(" ", 1)[1]) for x in (tmp_path / "result.txt").open()]
    stamp = {x["key"]: x["time_ms"] for x in lines}
    assert stamp["run_stop"] == stamp["epoch_stop"]
    assert stamp["eval_accuracy"] == stamp["eval_stop"] == stamp["run_stop"] + 500


def test_queued_steps_are_waited_for_before_an_evaluation_begins(monkeypatch):
    """The clock may stop at the weights, which a GPU may not have made yet."""
    time = FakeTime()
    target = QualityTarget({"score": 0.9}, "max", state=fake_state(time))
    begin = target.state.clock.now()

    def wait(device):
        time.now += 3.0

    monkeypatch.setattr(torch.cuda, "synchronize", wait)
    for kind, waited in (("cpu", 0.0), ("cuda", 3.0)):
        target.on_validation_start(None, SimpleNamespace(device=torch.device(kind)))
        assert target._eval_start - begin == waited


def write_log_of(folder, state):
    return MLPerfLog(
        benchmark="minigo",
        state=state,
        folder=lambda: folder,
        schedule=EvaluationSchedule(every=1),
        division=lambda: "open",
        submission={},
    )


def test_next_float_below_the_target_does_not_stop():
    state, _ = train([math.nextafter(0.908, 0)], max_epochs=2)
    assert state.stop_reason is StopReason.BUDGET_EXHAUSTED


def test_lower_is_better_is_inclusive():
    state, module = train([0.2, 0.058, 0.01], metrics={"score": 0.058}, mode="min")
    assert state.stop_reason is StopReason.TARGET_REACHED
    assert module.evaluations == 2


def test_several_metrics_must_hold_in_the_same_evaluation():
    # other = 1 - score: 0.6 / 0.4 never holds both of 0.6 and 0.45, 0.58 / 0.42 neither.
    both = {"score": 0.6, "other": 0.45}
    state, _ = train([0.6, 0.4, 0.58], metrics=both, max_epochs=3)
    assert state.stop_reason is StopReason.BUDGET_EXHAUSTED
    state, module = train([0.4, 0.6, 0.5], metrics={"score": 0.5, "other": 0.5})
    assert state.stop_reason is StopReason.TARGET_REACHED
    assert module.evaluations == 3


def test_not_a_number_ends_the_run_and_never_reaches():
    with pytest.raises(StopRun, match="nan") as caught:
        train([0.1, math.nan])
    assert caught.value.reason is StopReason.NON_FINITE


def test_non_finite_training_loss_ends_the_run():
    class Broken(ToyModule):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * (math.inf if batch_idx == 3 else 1)

    state = fake_state(FakeTime())
    trainer = toy_trainer([QualityTarget({"score": 1.0}, "max", state=state)])
    with pytest.raises(StopRun, match="not finite at step 4"):
        trainer.fit(Broken([0.0]), datamodule=ToyData())
    assert state.stop_reason is StopReason.NON_FINITE


def test_non_finite_loss_is_seen_with_fewer_steps_per_epoch_than_the_logging_interval():
    class Broken(ToyModule):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * math.nan

    state = fake_state(FakeTime())
    trainer = toy_trainer([QualityTarget({"score": 1.0}, "max", state=state)], log_every_n_steps=10)
    with pytest.raises(StopRun, match="not finite at step 10"):
        trainer.fit(Broken([0.0]), datamodule=ToyData())
    assert state.stop_reason is StopReason.NON_FINITE


def test_an_exception_stops_the_clock_as_failed():
    class Failing(ToyModule):
        def validation_step(self, batch, batch_idx):
            raise RuntimeError("disk gone")

    time = FakeTime()
    state = fake_state(time)
    trainer = toy_trainer([QualityTarget({"score": 1.0}, "max", state=state)])
    with pytest.raises(RuntimeError, match="disk gone"):
        trainer.fit(Failing([0.0], time=time), datamodule=ToyData())
    assert state.stop_reason is StopReason.FAILED
    stopped = state.clock.seconds
    time.now += 50
    assert state.clock.seconds == stopped == pytest.approx(6)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_within_one_step_with_a_checkpoint(number, tmp_path):
    class Interrupted(ToyModule):
        def training_step(self, batch, batch_idx):
            if len(self.losses) == 8:
                os.kill(os.getpid(), number)
            return super().training_step(batch, batch_idx)

    state = fake_state(FakeTime())
    checkpoint = Checkpoint(1e9, folder=lambda: tmp_path, state=state, benchmark="toy")
    trainer = toy_trainer([QualityTarget({"score": 1.0}, "max", state=state), checkpoint])
    module = Interrupted([0.0])
    with pytest.raises(StopRun):
        trainer.fit(module, datamodule=ToyData())
    assert state.stop_reason is StopReason.INTERRUPTED
    assert len(module.losses) == 9
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()
    assert signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)


def test_unknown_metric_lists_those_that_exist():
    with pytest.raises(ValueError, match="nonsense does not exist.*other, score"):
        train([0.0], metrics={"nonsense": 1.0})


def test_evaluation_switched_off_is_refused():
    with pytest.raises(ValueError, match="evaluation is switched off"):
        train([0.0], limit_val_batches=0)


@pytest.mark.parametrize(
    ("metrics", "mode"), [({}, "max"), ({"a": math.nan}, "max"), ({"a": 1.0}, "higher")]
)
def test_senseless_target_is_refused(metrics, mode):
    with pytest.raises(ValueError, match="target m"):
        QualityTarget(metrics, mode)


def test_clock_is_monotonic_and_derives_wall_time_from_it():
    time = FakeTime()
    clock = RunClock(monotonic=time, wall=lambda: 1000.0, age_seconds=3.0)
    assert clock.epoch_ms("init_start") == 997_000
    time.now += 2.5
    clock.mark("run_start")
    time.now += 4
    clock.mark("run_stop")
    time.now += 9
    clock.mark("run_stop")  # a second stop changes nothing
    assert clock.seconds == 4.0
    assert clock.epoch_ms("run_stop") == 1_006_500
    assert clock.between("init_start", "run_start") == 5.5


def test_process_age_grows_with_time():
    first = seconds_since_process_start()
    torch.ones(1)
    assert 0 < first <= seconds_since_process_start() + 0.02
