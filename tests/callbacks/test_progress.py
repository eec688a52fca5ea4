"""What the progress line says."""

import io

import pytest

from callbacks.evaluation_schedule import EvaluationSchedule
from callbacks.progress import ERASE_LINE, Progress, human_time
from callbacks.quality_target import Evaluation, QualityTarget, StopReason
from tests.toy import FakeTime, fake_state


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (8.26, "8.3 s"), (59.96, "1:00"), (125, "2:05"), (10925.4, "3:02:05")],
)
def test_human_time(seconds, text):
    assert human_time(seconds) == text


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


def batches(bar, count, time, seconds):
    """Train ``count`` batches of ``seconds`` each; give what was printed."""
    trainer = FakeTrainer()
    bar.on_train_start(trainer, None)
    for number in range(count):
        time.now += seconds
        bar.on_train_batch_end(trainer, None, None, None, number)


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
    assert lines[-1] == "epoch 1 step 75/100 | s - (>= 0.9) | 2:30 | evaluation in 4:10"


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
    # The times are worth more than the step.
    assert line.startswith("epoch 1 | a_rather_long_metric_name 0.0300 / 0.377 | ")


class Terminal(io.StringIO):
    """Collects what a terminal would get."""

    def isatty(self):
        return True


@pytest.mark.parametrize(("kind", "live"), [("xterm", True), ("dumb", False)])
def test_a_terminal_shows_one_line_that_is_erased_at_the_end(kind, live, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", kind)
    monkeypatch.setenv("COLUMNS", "40")
    bar, time, _ = running()
    batches(bar, 5, time, 1.0)
    bar.on_train_end(FakeTrainer(), None)
    assert screen.getvalue().endswith(ERASE_LINE) is live
    assert "\n" not in screen.getvalue()
    shown = [part for part in screen.getvalue().split(ERASE_LINE) if part]
    assert len(shown) == (5 if live else 0)
    assert all(len(part) < 40 for part in shown)
    assert "\x1b[3" not in screen.getvalue(), "no colours"
