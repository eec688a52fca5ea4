"""Resume is exact: the same losses to the bit, wherever a run was cut."""

import os
import resource
import signal
import time

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from callbacks.checkpoint import (
    Checkpoint,
    DirectIO,
    LastCheckpoint,
    _is_writers,
    moment_bytes,
    num_bytes,
)
from callbacks.evaluation_schedule import EvaluationSchedule
from callbacks.quality_target import QualityTarget, StopReason, StopRun
from callbacks.random_states import random_states, set_random_states
from datamodules.common.sampling import EpochSampler, resume_position
from modules.common.base import scheduled
from tests.toy import FakeTime, ToyData, ToyModule, fake_state, toy_trainer


class Points(Dataset):
    def __getitem__(self, key):
        x = torch.tensor([key.index / 12, (key.index % 5) / 5])
        return x, x.sum(0, keepdim=True)


class SampledData(ToyData):
    def train_dataloader(self):
        epoch, batch = resume_position(self.trainer)
        sampler = EpochSampler(12, 2, 0, 1, 2, seed=7, start_batch=batch, start_epoch=epoch)
        return DataLoader(Points(), batch_sampler=sampler)


class Noisy(ToyModule):
    """Draws from torch's, numpy's and evaluation's generators, so that lost states show."""

    each = "step"

    def __init__(self, cut=None, cut_evaluation=None):
        super().__init__([0.1])
        self.cut, self.cut_evaluation = cut, cut_evaluation
        self.evaluated_at, self.drawn = [], []

    def training_step(self, batch, batch_idx):
        if self.cut == len(self.losses):
            os.kill(os.getpid(), signal.SIGTERM)
        self.tick()
        x, y = batch
        noise = torch.rand(1) + float(np.random.rand())
        return super().training_step([x + 0.1 * noise, y], batch_idx)

    def validation_step(self, batch, batch_idx):
        if (self.evaluations, batch_idx) == self.cut_evaluation:
            os.kill(os.getpid(), signal.SIGTERM)
        self.drawn.append(float(torch.rand(1)))
        super().validation_step(batch, batch_idx)

    def configure_optimizers(self):
        return scheduled(
            torch.optim.SGD(self.parameters(), lr=1.0, momentum=0.9),
            lambda done: 0.01 / (1 + done),
            each=self.each,
        )

    def on_validation_epoch_end(self):
        torch.rand(3)
        self.evaluated_at.append(self.global_step)
        super().on_validation_epoch_end()


def fit(folder, module, schedule, ckpt=None, every_seconds=1e9, more=(), **limits):
    torch.manual_seed(3)
    np.random.seed(3)
    time = FakeTime()
    state = fake_state(time)
    module.tick = lambda: setattr(time, "now", time.now + 1)
    checkpoint = Checkpoint(every_seconds, folder=lambda: folder, state=state, benchmark="toy")
    callbacks = [
        EvaluationSchedule(**schedule),
        QualityTarget({"score": 1.0}, "max", state=state),
        LastCheckpoint(checkpoint),
        checkpoint,
        *more,
    ]
    trainer = toy_trainer(callbacks, **{"max_epochs": -1, **limits})
    try:
        trainer.fit(module, datamodule=SampledData(), ckpt_path=ckpt, weights_only=True)
    except StopRun as stop:
        if stop.reason is not StopReason.BUDGET_EXHAUSTED:
            raise
    return state


EPOCHS = {"every": 2, "limit": 5}
STEPS = {"every": 7, "limit": 60, "unit": "samples", "round_to": "step"}


@pytest.mark.parametrize("schedule", [EPOCHS, STEPS], ids=["epochs", "steps"])
@pytest.mark.parametrize("each", ["step", "epoch"])
@pytest.mark.parametrize("cut", [0, 1, 3, 5, 6, 8, 11, 12, 17])
def test_interrupted_and_resumed_equals_uninterrupted(schedule, cut, each, tmp_path, monkeypatch):
    monkeypatch.setattr(Noisy, "each", each)
    torch.manual_seed(0)
    whole = Noisy()
    start = {k: v.clone() for k, v in whole.state_dict().items()}
    (tmp_path / "whole").mkdir()
    fit(tmp_path / "whole", whole, schedule)
    first = Noisy(cut)
    first.load_state_dict(start)
    folder = tmp_path / "cut"
    folder.mkdir()
    with pytest.raises(StopRun):
        fit(folder, first, schedule)
    second = Noisy()
    state = fit(folder, second, schedule, ckpt=folder / "checkpoints" / "last.ckpt")
    assert len(first.losses) in (cut + 1, 6 * (cut // 6 + 1))
    assert first.losses + second.losses == whole.losses
    assert first.evaluated_at + second.evaluated_at == whole.evaluated_at
    assert state.resumed
    assert state.samples == 60


@pytest.mark.parametrize("schedule", [EPOCHS, STEPS], ids=["epochs", "steps"])
@pytest.mark.parametrize("each", ["step", "epoch"])
@pytest.mark.parametrize("cut", [0, 1])
def test_signal_in_an_evaluation_leaves_it_and_the_resumed_run_begins_it_again(
    schedule, each, cut, tmp_path, monkeypatch
):
    monkeypatch.setattr(Noisy, "each", each)
    whole = Noisy()
    start = {k: v.clone() for k, v in whole.state_dict().items()}
    (tmp_path / "whole").mkdir()
    fit(tmp_path / "whole", whole, schedule)
    first = Noisy(cut_evaluation=(cut, 0))
    first.load_state_dict(start)
    folder = tmp_path / "cut"
    folder.mkdir()
    with pytest.raises(StopRun):
        fit(folder, first, schedule)
    assert len(first.drawn) == 2 * cut + 1, "only the first of two batches"
    second = Noisy()
    state = fit(folder, second, schedule, ckpt=folder / "checkpoints" / "last.ckpt")
    assert first.losses + second.losses == whole.losses
    assert first.evaluated_at + second.evaluated_at == whole.evaluated_at
    assert first.drawn[:-1] + second.drawn == whole.drawn
    assert state.samples == 60


@pytest.mark.parametrize("schedule", [EPOCHS, STEPS], ids=["epochs", "steps"])
def test_killed_run_goes_on_from_its_last_periodic_checkpoint(schedule, tmp_path):
    whole = Noisy()
    start = {k: v.clone() for k, v in whole.state_dict().items()}
    (tmp_path / "whole").mkdir()
    fit(tmp_path / "whole", whole, schedule)

    class Killed(Noisy):
        def training_step(self, batch, batch_idx):
            if len(self.losses) == 9:
                raise RuntimeError("killed")
            return super().training_step(batch, batch_idx)

    first = Killed()
    first.load_state_dict(start)
    folder = tmp_path / "cut"
    folder.mkdir()
    with pytest.raises(RuntimeError, match="killed"):
        fit(folder, first, schedule, every_seconds=0)
    second = Noisy()
    fit(folder, second, schedule, ckpt=folder / "checkpoints" / "last.ckpt")
    assert whole.losses[-len(second.losses) :] == second.losses
    assert len(second.losses) > 20


@pytest.mark.parametrize(
    ("every_seconds", "steps"),
    # An epoch has 6 steps of a second each; the last checkpoint is always written.
    [(0, [6, 12, 18, 24, 30]), (6, [6, 12, 18, 24, 30]), (7, [12, 24, 30]), (1e9, [30])],
)
def test_checkpoints_keep_their_distance_from_the_start_and_from_each_other(
    every_seconds, steps, tmp_path, monkeypatch
):
    saved: list[int] = []
    save = L.Trainer.save_checkpoint

    def noted(trainer, path):
        saved.append(trainer.global_step)
        save(trainer, path)

    monkeypatch.setattr(L.Trainer, "save_checkpoint", noted)
    fit(tmp_path, Noisy(), {"every": 1, "limit": 5}, every_seconds=every_seconds)
    assert saved == steps


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [
        ({"every": 1, "limit": 3}, 18),
        ({"every": 2, "limit": 3}, 18),
        ({**STEPS, "limit": 48}, 24),
        ({**STEPS, "limit": 50}, 25),
        ({**STEPS, "limit": 56}, 28),
    ],
    ids=["evaluated", "last epoch not evaluated", "epoch end", "mid epoch", "evaluated mid epoch"],
)
def test_run_that_misses_the_target_leaves_its_last_weights(schedule, steps, tmp_path):
    module = Noisy()
    state = fit(tmp_path, module, schedule)
    assert state.stop_reason is StopReason.BUDGET_EXHAUSTED
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == steps
    for name, weights in module.state_dict().items():
        assert torch.equal(saved["state_dict"][name], weights)
    second = Noisy()
    fit(
        tmp_path,
        second,
        {**schedule, "limit": 60 if "unit" in schedule else 5},
        ckpt=tmp_path / "checkpoints" / "last.ckpt",
    )
    assert len(second.losses) == 30 - steps


@pytest.mark.parametrize(
    ("schedule", "last"),
    [
        ({"every": 2, "limit": 2}, 12),
        ({**STEPS, "limit": 36}, 18),
        ({**STEPS, "limit": 42}, 21),
        ({**STEPS, "limit": 46}, 23),
    ],
    ids=["epochs", "epoch end", "mid epoch", "mid epoch, not evaluated"],
)
def test_signal_at_the_end_of_the_budget_interrupts_nothing(schedule, last, tmp_path):
    class Signalled(Noisy):
        def training_step(self, batch, batch_idx):
            if last == 23 == self.global_step + 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().training_step(batch, batch_idx)

        def on_validation_epoch_end(self):
            super().on_validation_epoch_end()
            if self.global_step == last:
                os.kill(os.getpid(), signal.SIGTERM)

    module = Signalled()
    state = fit(tmp_path, module, schedule)
    assert len(module.losses) == last
    assert state.stop_reason is StopReason.BUDGET_EXHAUSTED


class Impatient(L.Callback):
    """Stops the run after so many steps, or epochs, as timers and early stopping do."""

    monitor = "score"  # Lightning calls those that have one after all others

    def __init__(self, steps=None, epochs=None):
        self.steps, self.epochs = steps, epochs

    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop |= trainer.global_step == self.steps

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop |= trainer.current_epoch + 1 == self.epochs


@pytest.mark.parametrize("schedule", [EPOCHS, STEPS], ids=["epochs", "steps"])
@pytest.mark.parametrize("each", ["step", "epoch"])
@pytest.mark.parametrize(
    ("limit", "steps"),
    [
        ({"max_epochs": 3}, 18),
        ({"max_steps": 12}, 12),
        ({"max_steps": 14}, 14),  # an evaluation of every 7 samples
        ({"max_steps": 15}, 15),
        ({"more": [Impatient(steps=16)]}, 16),
        ({"more": [Impatient(epochs=2)]}, 12),
    ],
    ids=["epochs", "steps", "evaluated", "mid epoch", "timer", "early stopping"],
)
def test_a_run_that_lightning_ends_leaves_its_last_weights_once_and_goes_on_from_them(
    schedule, each, limit, steps, tmp_path, monkeypatch
):
    monkeypatch.setattr(Noisy, "each", each)
    saved: list[int] = []
    save = L.Trainer.save_checkpoint
    monkeypatch.setattr(
        L.Trainer, "save_checkpoint", lambda t, p: (saved.append(t.global_step), save(t, p))
    )
    whole, module, second = Noisy(), Noisy(), Noisy()
    module.load_state_dict(whole.state_dict())
    (tmp_path / "whole").mkdir()
    fit(tmp_path / "whole", whole, schedule)
    assert saved == [30]
    (tmp_path / "cut").mkdir()
    fit(tmp_path / "cut", module, schedule, **limit)
    assert saved == [30, steps]
    checkpoint = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all(torch.equal(weights[n], w) for n, w in module.state_dict().items())
    fit(tmp_path / "cut", second, schedule, ckpt=checkpoint)
    assert len(module.losses + second.losses) == 30, "no step is left out or done twice"
    if 16 in module.evaluated_at:
        return  # before it is stopped Lightning evaluates, which draws numbers of its own
    assert module.losses + second.losses == whole.losses
    assert module.evaluated_at + second.evaluated_at == whole.evaluated_at


def test_random_states_survive_a_weights_only_file(tmp_path):
    np.random.seed(5)
    torch.manual_seed(5)
    np.random.randn()  # leaves a cached second Gaussian behind
    torch.save(random_states(), tmp_path / "s.pt")
    expected = (np.random.randn(3).tolist(), torch.rand(2).tolist())
    set_random_states(torch.load(tmp_path / "s.pt", weights_only=True))
    assert (np.random.randn(3).tolist(), torch.rand(2).tolist()) == expected


def test_a_full_disk_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr("callbacks.checkpoint.free_mib", lambda folder: 0)
    module = Noisy()
    with pytest.raises(OSError, match="0 MiB are free, but 3 checkpoints need at least 1 MiB"):
        fit(tmp_path, module, {"every": 1, "limit": 2})
    assert not module.losses


def test_a_disk_that_fills_up_leaves_no_half_checkpoint(tmp_path, monkeypatch):
    good = tmp_path / "checkpoints" / "last.ckpt"
    good.parent.mkdir()
    good.write_bytes(b"older")

    def fill(trainer, path):
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lightning.Trainer.save_checkpoint", fill)
    with pytest.raises(OSError, match=r"last.ckpt cannot be written \(No space left on device\), "):
        fit(tmp_path, Noisy(), {"every": 1, "limit": 2})
    assert [path.name for path in good.parent.iterdir()] == ["last.ckpt"]
    assert good.read_bytes() == b"older"


def test_the_last_two_checkpoints_are_kept(tmp_path):
    fit(tmp_path, Noisy(), {"every": 1, "limit": 3}, every_seconds=0)
    steps = {
        path.name: torch.load(path, weights_only=True)["global_step"]
        for path in (tmp_path / "checkpoints").iterdir()
    }
    assert steps == {"last.ckpt": 18, "previous.ckpt": 12}


class Signalled(Noisy):
    """Gets a signal in its fourth step."""

    def __init__(self, number=signal.SIGTERM):
        super().__init__()
        self.number = number

    def training_step(self, batch, batch_idx):
        if len(self.losses) == 3:
            os.kill(os.getpid(), self.number)
        return super().training_step(batch, batch_idx)


def test_a_closed_terminal_ends_a_run_in_order(tmp_path, hang_up_counts):
    with pytest.raises(StopRun, match="interrupted by a signal"):
        fit(tmp_path, Signalled(signal.SIGHUP), {"every": 1, "limit": 2})
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()


def test_nohup_keeps_a_run_from_ending(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        state = fit(tmp_path, Signalled(signal.SIGHUP), {"every": 1, "limit": 2})
    finally:
        signal.signal(signal.SIGHUP, before)
    assert state.stop_reason is StopReason.BUDGET_EXHAUSTED


def test_a_second_signal_ends_the_write_and_a_third_has_no_effect(tmp_path, monkeypatch):
    def slow(trainer, path):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("went on writing")

    monkeypatch.setattr("lightning.Trainer.save_checkpoint", slow)

    class Last(L.Callback):
        def on_exception(self, trainer, module, error):
            os.kill(os.getpid(), signal.SIGTERM)  # after the checkpoint's own hook: see handlers

    handlers = {n: signal.signal(n, lambda *_: seen.append(1)) for n in (signal.SIGTERM,)}
    seen: list[int] = []
    try:
        with pytest.raises(SystemExit):  # Lightning's end of a KeyboardInterrupt
            fit(tmp_path, Signalled(), {"every": 1, "limit": 2}, more=[Last()])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert seen == [1], "the handlers from before are back, and only the third signal met them"


def test_a_loader_that_hands_over_nothing_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("callbacks.checkpoint.LOADER_SECONDS", 0.2)

    class Stuck(Points):
        def __getitem__(self, key):
            if len(module.losses) == 2:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(60)
            return super().__getitem__(key)

    module = Noisy()
    monkeypatch.setitem(SampledData.train_dataloader.__globals__, "Points", Stuck)
    with pytest.raises(SystemExit):
        fit(tmp_path, module, {"every": 1, "limit": 2})
    assert len(module.losses) == 2


def test_every_byte_at_which_a_disk_can_be_full_is_told(tmp_path):
    # torch reports a full disk in the archive's last bytes in other words than in the data.
    content, path = {str(n): torch.zeros(9) for n in range(60)}, tmp_path / "last.ckpt"
    io, limits = DirectIO(), resource.getrlimit(resource.RLIMIT_FSIZE)
    io.save_checkpoint(content, path)
    for size in range(0, path.stat().st_size, 97):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
            with pytest.raises((OSError, RuntimeError)) as told:
                io.save_checkpoint(content, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert isinstance(told.value, OSError) or _is_writers(told.value), (size, told.value)


def test_disk_is_reckoned_for_weights_and_moments():
    weights = [torch.nn.Parameter(torch.zeros(10, 10)), torch.nn.Parameter(torch.zeros(4))]
    assert num_bytes(weights) == 416
    assert moment_bytes(torch.optim.AdamW(weights)) == 2 * 416
    assert moment_bytes(torch.optim.SGD(weights, lr=1.0, momentum=0.9)) == 416
    assert moment_bytes(torch.optim.SGD(weights, lr=1.0)) == 0
