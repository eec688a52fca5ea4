"""What the progress line says."""

import pytest

from callbacks.progress import Progress, human_time
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
