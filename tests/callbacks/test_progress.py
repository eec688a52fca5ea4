"""What the progress line says."""

import io
import sys
from types import SimpleNamespace

import pytest
import torch

from callbacks.evaluation_schedule import EvaluationSchedule
from callbacks.progress import Progress
from callbacks.quality_target import Evaluation, QualityTarget, StopReason
from tests.toy import FakeTime, fake_state


def progress(values, *, goal=0.9, mode="max", now=None):
    time = FakeTime()
    state = fake_state(time)
    state.clock.mark("run_start")
    for number, value in enumerate(values, 1):
        state.evaluations.append(Evaluation(10.0 * number, number, number, number, {"s": value}))
    time.now += 10.0 * len(values) if now is None else now
    return Progress(QualityTarget({"s": goal}, mode, state=state))


def test_estimate_continues_the_trend_to_the_next_evaluation():
    # 0.1 per 10 s: 0.15 missing, so the second evaluation from now.
    assert progress([0.55, 0.65, 0.75]).seconds_left() == pytest.approx(20)
    assert progress([0.55, 0.65, 0.75], now=34).seconds_left() == pytest.approx(16)
    assert progress([0.5, 0.4], goal=0.35, mode="min").seconds_left() == pytest.approx(10)


def test_no_estimate_without_a_trend():
    assert progress([0.5]).seconds_left() is None
    assert progress([0.7, 0.6]).seconds_left() is None
    assert progress([0.6, 0.6]).seconds_left() is None
    done = progress([0.5, 0.95])
    done._target.stop(StopReason.TARGET_REACHED)
    assert done.seconds_left() is None


class FakeTrainer:
    """What the line reads of a trainer."""

    num_training_batches = 100
    current_epoch = 0
    datamodule = None


def step(bar, trainer, time, number, seconds, outputs=None):
    """Train one batch."""
    time.now += seconds
    bar._target._step_end = time.now  # the target's own hook, which comes first
    bar.on_train_batch_end(trainer, None, outputs, None, number)


def batches(bar, count, time, seconds):
    """Train ``count`` batches of ``seconds`` each."""
    trainer = FakeTrainer()
    bar.on_train_start(trainer, None)
    for number in range(count):
        step(bar, trainer, time, number, seconds)


def running(schedule=None, metrics=None):
    time = FakeTime()
    state = fake_state(time)
    state.clock.mark("run_start")
    target = QualityTarget(metrics or {"s": 0.9}, "max", state=state)
    return Progress(target, schedule), time, state


def test_a_log_file_gets_lines_after_growing_silences(capsys):
    bar, time, _ = running(EvaluationSchedule(every=2))
    batches(bar, 100, time, 2.0)
    lines = capsys.readouterr().err.splitlines()
    # 10 s after the start, then 20, 40 and 80 s later; nothing else.
    assert [line.split(" | ")[2] for line in lines] == ["10.0 s", "30.0 s", "1:10", "2:30"]
    # 200 batches of 2 s each up to the evaluation, of which 75 are done.
    assert lines[-1] == "epoch 1 step 75/100 | s - (>= 0.9) | 2:30 | next evaluation in 4:10"


def test_an_evaluation_that_never_comes_is_not_foretold(capsys):
    bar, time, _ = running(EvaluationSchedule(every=2**50))
    batches(bar, 20, time, 2.0)
    assert "evaluation" not in capsys.readouterr().err


def test_an_evaluation_breaks_the_silence(capsys):
    bar, time, state = running()
    batches(bar, 4, time, 2.0)
    trainer = FakeTrainer()
    trainer.state = type("State", (), {"fn": "fit"})
    state.evaluations.append(Evaluation(8.0, 1, 4, 4, {"s": 0.5}))
    bar.on_validation_end(trainer, None)
    time.now += 9.0
    bar.on_train_batch_end(trainer, None, None, None, 4)
    assert capsys.readouterr().err.splitlines() == ["epoch 1 | s 0.5000 (>= 0.9) | 8.0 s"]


def test_a_file_never_gets_control_characters_nor_wide_lines(capsys):
    metrics = {"a_rather_long_metric_name": 0.377, "another_long_metric_name": 0.339}
    bar, time, state = running(metrics=metrics)
    for number in (1, 2, 3):
        values = {name: 0.01 * number for name in metrics}
        state.evaluations.append(Evaluation(36_000.0 * number, number, number, number, values))
    time.now += 3 * 36_000.0
    bar._shown_at = 0.0
    bar.on_train_batch_end(FakeTrainer(), None, None, None, 5)
    (line,) = capsys.readouterr().err.splitlines()
    assert "\x1b" not in line
    assert "\r" not in line
    assert len(line) <= 79
    # The last values are in the evaluation's own line; the times are worth more.
    assert line == "epoch 1 step 6/100 | 30:00:00 | target in about 350:00:00"


class Terminal(io.StringIO):
    """Collects what a terminal would get."""

    def isatty(self):
        return True


@pytest.fixture
def live(monkeypatch):
    """A bar on a terminal of 120 columns, its trainer, time and state."""
    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    bar, time, state = running(EvaluationSchedule(every=1))
    trainer = SimpleNamespace(
        num_training_batches=100,
        current_epoch=0,
        datamodule=None,
        accumulate_grad_batches=2,
        num_val_batches=[30, 12],
        state=SimpleNamespace(fn="fit"),
    )
    bar.on_train_start(trainer, None)
    return bar, trainer, time, state


def test_the_live_line_shows_loss_and_pace_without_a_step_printing_anything(live, monkeypatch):
    bar, trainer, time, state = live
    monkeypatch.setattr("sys.stderr", Terminal())
    for number in range(40):
        state.samples += 8
        # A step hands over its share of the loss; two make an optimizer step.
        step(bar, trainer, time, number, 0.5, {"loss": torch.tensor(0.25)})
    text = "epoch 1 step 40/100 | loss 0.5 | 16 samples/s | s - (>= 0.9) | 20.0 s | "
    assert bar.live_text(trainer) == text + "next evaluation in 30 s"
    monkeypatch.setenv("COLUMNS", "80")
    line = bar.live_text(trainer)
    assert len(line) < 80
    assert "loss 0.5 | 16 samples/s" in line
    assert line.endswith("next evaluation in 30 s")
    assert sys.stderr.getvalue() == ""


def test_a_gpus_loss_is_the_one_that_was_read_anyway(live):
    bar, trainer, time, state = live
    state.train_loss = 1.5
    loss = torch.tensor(0.25, device="meta")  # cannot be read
    bar.on_train_batch_end(trainer, None, {"loss": loss}, None, 0)
    assert "loss 1.5 |" in bar.live_text(trainer)


def test_the_live_line_moves_during_an_evaluation(live):
    bar, trainer, time, state = live
    bar.on_validation_start(trainer, None)
    assert bar.live_text(trainer) == "evaluation batch 0/42 | s - (>= 0.9) | 0.0 s"
    for number in range(12):
        time.now += 0.5
        bar.on_validation_batch_end(trainer, None, None, None, number)
    text = "evaluation batch 12/42 | done in about 15 s | s - (>= 0.9) | 6.0 s"
    assert bar.live_text(trainer) == text
    for number in range(30):
        bar.on_validation_batch_end(trainer, None, None, None, number)
    assert bar.live_text(trainer) == "evaluation: scoring | s - (>= 0.9) | 6.0 s"


def test_a_second_evaluation_is_expected_to_take_as_long_as_the_first(live):
    bar, trainer, time, state = live
    for quality in (0.5, 0.6):
        bar.on_validation_start(trainer, None)
        time.now += 4.0
        if quality == 0.6:
            assert "| done in about 4 s |" in bar.live_text(trainer)
        time.now += 4.0
        state.evaluations.append(Evaluation(8.0, 1, 4, 4, {"s": quality}))
        bar.on_validation_end(trainer, None)


def test_an_evaluations_seconds_do_not_slow_the_next_estimate(live):
    bar, trainer, time, state = live
    step(bar, trainer, time, 49, 10.0)
    bar.on_validation_start(trainer, None)
    time.now += 1000.0
    state.evaluations.append(Evaluation(1010.0, 1, 4, 4, {"s": 0.5}))
    bar.on_validation_end(trainer, None)
    step(bar, trainer, time, 59, 2.0)
    assert bar.live_text(trainer).endswith("| next evaluation in 8 s")


def test_the_estimate_counts_down_during_a_long_step_and_begins_anew(live):
    bar, trainer, time, state = live
    step(bar, trainer, time, 0, 99.0)  # the first step tells nothing
    state.samples += 8
    step(bar, trainer, time, 1, 10.0)
    shown = []
    for _ in range(3):
        shown.append(bar.live_text(trainer).split(" | ")[1:])
        time.now += 5.0
    assert [line[0] for line in shown] == ["0.8 samples/s"] * 3
    assert [line[-1] for line in shown] == [f"next evaluation in 16:{s}" for s in (20, 15, 10)]
    bar._target._step_end = None  # the target's own hook, at an evaluation
    bar.on_validation_start(trainer, None)
    state.evaluations.append(Evaluation(8.0, 1, 4, 4, {"s": 0.5}))
    bar.on_validation_end(trainer, None)
    assert bar.live_text(trainer).endswith("| next evaluation in 16:20")


def test_a_run_that_is_resumed_in_the_middle_of_an_epoch_has_no_flying_start(live):
    bar, trainer, time, _ = live
    step(bar, trainer, time, 79, 1.0)
    step(bar, trainer, time, 80, 1.0)
    assert bar.live_text(trainer).endswith("| next evaluation in 19 s")


def test_once_the_run_has_ended_the_line_says_what_is_done(live):
    bar, trainer, time, state = live
    bar._target.stop(StopReason.TARGET_REACHED)
    assert bar.live_text(trainer) == "writing the run's files"
