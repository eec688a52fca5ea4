"""What a run used, from the start of its clock to its stop, on all of its nodes."""

import json

import lightning as L
import pytest

from callbacks.energy import Energy, _sum
from callbacks.quality_target import QualityTarget, StopReason, StopRun
from callbacks.run_record import RunRecord
from callbacks.warm_up import WarmUp
from tests.callbacks.fake_energy import package
from tests.callbacks.test_late_evaluation import Late
from tests.toy import FakeTime, ToyData, ToyModule, fake_state, toy_trainer

WH = 3_600_000_000  # microjoules


class Burning(ToyModule):
    """Its training, each of its evaluations and what follows them use 2 Wh, 1 Wh and 1 Wh."""

    def __init__(self, script, root, time):
        super().__init__(script, time=time)
        self.root, self.used = root, 0

    def burn(self, watt_hours):
        self.used += watt_hours
        self.time.now += 10
        package(self.root, 0, self.used * WH)

    def on_fit_start(self):
        self.burn(50)  # after the hook of the callbacks, so within the clock

    def on_train_epoch_start(self):
        self.burn(2)

    def on_validation_epoch_start(self):
        self.burn(1)

    def on_train_end(self):
        self.burn(100)


class AtWeights(Burning):
    stops_at_weights = True


def recorded(folder, *, kind=Burning, script=(0.1, 0.9), price=None, error=None, resumed=False):
    root = folder / "powercap"
    package(root, 0, 0)
    time = FakeTime()
    state = fake_state(time)
    state.resumed = resumed
    target = QualityTarget({"score": 0.5}, "max", state=state)
    energy = Energy(state, cost_per_hour=price, powercap=root)
    record = RunRecord(
        target=target,
        warm_up=WarmUp(),
        folder=lambda: folder,
        facts=lambda: {"benchmark": "toy", "demo": True},
        config={},
        used=energy.record,
    )
    module = kind(script, root, time)
    if error is not None:
        module.on_train_end = None
        module.on_validation_epoch_end = lambda: (_ for _ in ()).throw(error)
    trainer = toy_trainer([target, energy, record])
    try:
        trainer.fit(module, ToyData())
    except (RuntimeError, StopRun):
        assert error is not None
    return json.loads((folder / "run.json").read_text())


def test_energy_is_that_of_the_clock(tmp_path):
    record = recorded(tmp_path)
    assert record["stop_reason"] == StopReason.TARGET_REACHED
    assert record["energy_wh"] == {"gpu": None, "cpu": pytest.approx(50 + 2 * (2 + 1))}
    assert record["energy_note"] == "gpu: the run used no NVIDIA GPU"


def test_the_evaluation_that_is_not_timed_is_not_counted(tmp_path):
    record = recorded(tmp_path, kind=AtWeights)
    assert record["energy_wh"]["cpu"] == pytest.approx(50 + 2 + 1 + 2)


def test_a_result_that_is_known_late_ends_the_count_before_the_last_checkpoint(tmp_path):
    package(tmp_path, 0, 0)
    time = FakeTime()
    state = fake_state(time)
    energy = Energy(state, powercap=tmp_path)
    checkpoint = L.Callback()
    checkpoint.on_late_evaluation = lambda *args: package(tmp_path, 0, 100 * WH)
    target = QualityTarget({"score": 0.9}, "max", state=state)
    trainer = toy_trainer([target, energy, checkpoint])
    with pytest.raises(StopRun):
        trainer.fit(Late([0.9], time=time), datamodule=ToyData())
    assert energy.record()["energy_wh"]["cpu"] == 0.0


def test_a_run_that_missed_the_target_and_one_that_failed_have_figures(tmp_path):
    (tmp_path / "missed").mkdir()
    (tmp_path / "failed").mkdir()
    missed = recorded(tmp_path / "missed", script=[0.1] * 5)
    assert missed["stop_reason"] == StopReason.BUDGET_EXHAUSTED
    assert missed["energy_wh"]["cpu"] == pytest.approx(50 + 5 * (2 + 1))
    failed = recorded(tmp_path / "failed", error=RuntimeError("broken"))
    assert failed["stop_reason"] == StopReason.FAILED
    assert failed["energy_wh"]["cpu"] == pytest.approx(50 + 2 + 1)


def test_a_resumed_run_says_that_its_first_part_is_missing(tmp_path):
    record = recorded(tmp_path, resumed=True, price=10.0)
    since = "since the run was resumed, without what was before"
    assert record["energy_note"] == f"gpu: the run used no NVIDIA GPU; {since}"
    assert record["cost_note"] == since
    assert record["cost"] > 0


def test_cost_is_that_of_the_timed_hours(tmp_path):
    record = recorded(tmp_path, price=360.0)
    assert record["seconds"]["total"] == 63  # five times 10 s, and 13 steps
    assert (record["cost"], record["cost_note"]) == (pytest.approx(6.3), None)


def test_without_a_price_the_cost_is_null_with_a_reason(tmp_path):
    record = recorded(tmp_path)
    assert (record["cost"], record["cost_note"]) == (None, "no --cost_per_hour was given")


def test_a_running_run_has_no_figures_yet():
    state = fake_state(FakeTime())
    record = Energy(state, cost_per_hour=1.0).record()
    assert record["energy_wh"] == {"gpu": None, "cpu": None}
    assert record["energy_note"] == "gpu: the run has not ended; cpu: the run has not ended"
    assert record["cost_note"] == "the run has not ended"


@pytest.mark.parametrize(
    ("error", "used"),
    [
        (StopRun(StopReason.BUDGET_EXHAUSTED, "used up"), 2 * (50 + 2 + 1)),
        (StopRun(StopReason.NON_FINITE, "nan"), 2 * (50 + 2 + 1)),
        (StopRun(StopReason.INTERRUPTED, "a signal"), None),
        (RuntimeError("broken"), None),
    ],
)
def test_nodes_report_where_all_leave_the_training_together(tmp_path, monkeypatch, error, used):
    """A reason that all ranks share; after any other, a node that is asked may be gone."""

    def of_two_nodes(value):
        return [value, value] if isinstance(value, dict) else [(0, None), (1, None)]

    monkeypatch.setattr("callbacks.energy._from_all_ranks", of_two_nodes)
    record = recorded(tmp_path, error=error)
    assert record["energy_wh"]["cpu"] == (None if used is None else pytest.approx(used))
    assert ("not every node reported" in record["energy_note"]) == (used is None)


def test_nodes_are_added_up_and_one_that_does_not_know_spoils_the_figure():
    nodes = [{"gpu": 1.5, "cpu": 1.0}, {}, {"gpu": 2.0, "cpu": "no counter"}, {}]
    assert _sum(nodes) == {"gpu": 3.5, "cpu": "no counter"}
