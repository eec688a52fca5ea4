"""Evaluation points of the rules' own examples, in a real training loop where it is short."""

import contextlib
import math

import pytest

from callbacks.evaluation_schedule import EvaluationSchedule
from callbacks.quality_target import QualityTarget, StopReason, StopRun
from tests.toy import FakeTime, ToyData, ToyModule, fake_state, toy_trainer

UNET3D = {"first": 168_000, "every": 3_360, "limit": 1_680_000, "unit": "samples"}


@pytest.mark.parametrize(
    ("global_batch_size", "first", "every"),
    [(2, 1000, 20), (56, 1000, 20), (84, 1000, 20), (32, 875, 18), (80, 700, 14), (128, 657, 14)],
)
def test_unet3d_schedule_matches_the_rule_book_examples(global_batch_size, first, every):
    schedule = EvaluationSchedule(**UNET3D)
    padded = math.ceil(168 / global_batch_size) * global_batch_size
    assert schedule.next_amount(0, padded) == first
    assert schedule.next_amount(first - 1, padded) == first
    assert schedule.next_amount(first, padded) == first + every
    assert schedule.next_amount(first + every + 1, padded) == first + 2 * every


def test_extra_points_come_before_the_regular_ones():
    schedule = EvaluationSchedule(every=5, first=50, at=[40])
    points, done = [], 0
    while done < 65:
        done = schedule.next_amount(done, 1)
        points.append(done)
    assert points == [40, 50, 55, 60, 65]


def run(schedule, **settings):
    state = fake_state(FakeTime())
    target = QualityTarget({"score": 1.0}, "max", state=state)
    trainer = toy_trainer([schedule, target], **{"max_epochs": -1, **settings})
    with contextlib.suppress(StopRun):
        trainer.fit(ToyModule([0.0]), datamodule=ToyData())
    assert state.stop_reason is StopReason.BUDGET_EXHAUSTED
    return state


def test_epochs_in_the_loop():
    state = run(EvaluationSchedule(every=2, first=3, limit=8))
    assert [e.epoch for e in state.evaluations] == [3, 5, 7]
    assert state.samples == 8 * 12


@pytest.mark.parametrize(
    "settings", [{"every": 2}, {"every": 12, "unit": "samples", "round_to": "step"}]
)
def test_the_data_module_is_not_asked_in_every_step(settings):
    """BERT's counted its parts each time."""
    asked = []

    class Counted(ToyData):
        @property
        def samples_per_epoch(self):
            asked.append(1)
            return 12

    limit = 6 if settings["every"] == 2 else 72
    state = fake_state(FakeTime())
    target = QualityTarget({"score": 1.0}, "max", state=state)
    trainer = toy_trainer([EvaluationSchedule(**settings, limit=limit), target], max_epochs=-1)
    with contextlib.suppress(StopRun):
        trainer.fit(ToyModule([0.0]), datamodule=Counted())
    assert state.samples == 6 * 12
    assert len(asked) <= 6 + 1


def test_samples_rounded_up_to_epochs_in_the_loop():
    # 12 samples per epoch: first ceil(30/12) = 3, every ceil(13/12) = 2, limit ceil(85/12) = 8.
    schedule = EvaluationSchedule(every=13, first=30, limit=85, unit="samples")
    state = run(schedule)
    assert [e.epoch for e in state.evaluations] == [3, 5, 7]
    assert state.samples == 96


def test_samples_rounded_up_to_steps_in_the_loop():
    # Steps of 2 samples: due at or past 5, 10, 15, 20, 25, 30.
    schedule = EvaluationSchedule(every=5, limit=31, unit="samples", round_to="step")
    state = run(schedule)
    assert [e.samples for e in state.evaluations] == [6, 10, 16, 20, 26, 30]
    assert state.samples == 32


def test_samples_with_accumulation_wait_for_the_optimizer_step():
    schedule = EvaluationSchedule(every=6, limit=24, unit="samples", round_to="step")
    state = run(schedule, accumulate_grad_batches=2)
    assert [e.samples for e in state.evaluations] == [8, 12, 20, 24]
    assert [e.step for e in state.evaluations] == [2, 3, 5, 6]


@pytest.mark.parametrize(
    ("steps", "limit", "samples"),
    # Steps of 2 samples, evaluations at or past 5, 10, 15 ...: the last is the first one that sees
    # the weights after the last step that changes them.
    [(5, 31, 10), (6, 31, 16), (6, 14, 14), (6, None, 16)],
)
def test_run_ends_when_the_learning_rate_is_zero_for_good(monkeypatch, steps, limit, samples):
    monkeypatch.setattr(ToyModule, "schedule_steps", steps, raising=False)
    state = run(EvaluationSchedule(every=5, limit=limit, unit="samples", round_to="step"))
    assert state.samples == samples


@pytest.mark.parametrize("bad", [{"every": 0}, {"first": -1}, {"limit": 3, "first": 5}])
def test_senseless_amounts_are_refused(bad):
    with pytest.raises(ValueError, match="evaluation"):
        EvaluationSchedule(**bad)
