"""Private attributes of Lightning that we use still exist: after an upgrade, look here first."""

import inspect

import lightning as L
import pytest
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.strategies import ModelParallelStrategy

from callbacks import lightning_private as private
from tests.toy import ToyData, ToyModule, toy_trainer


@pytest.mark.parametrize(
    "name",
    [
        "_broadcast_sigterm_tensor",
        "_batches_that_stepped",
        "_num_ready_batches_reached",
        "_should_accumulate",
    ],
)
def test_the_training_loop_has(name):
    trainer = L.Trainer(logger=False, accelerator="cpu")
    assert hasattr(trainer.fit_loop.epoch_loop, name), f"lightning's epoch loop has no {name}"


def test_the_loops_have_combined_loaders():
    trainer = L.Trainer(logger=False, accelerator="cpu")
    for loop in (trainer.fit_loop, trainer.fit_loop.epoch_loop.val_loop):
        assert hasattr(loop, "_combined_loader"), f"{type(loop).__name__} has no _combined_loader"
    assert list(private.loaders(trainer)) == []


def test_the_broadcast_is_called_by_the_name_that_is_replaced():
    source = inspect.getsource(type(L.Trainer(logger=False).fit_loop.epoch_loop))
    assert "self._broadcast_sigterm_tensor()" in source, "replacing it would change nothing"


def test_empty_hooks_of_a_step_are_passed_over():
    class Counts(L.Callback):
        def __init__(self):
            self.calls = []

        def on_train_batch_end(self, *args):
            self.calls.append("on_train_batch_end")

    class Added(L.Callback):
        pass

    counts, added = Counts(), Added()
    added.on_before_backward = lambda *args: counts.calls.append("on_before_backward")
    for callback in (counts, added):
        private.skip_empty_hooks(callback)
    left = [name for name in private.STEP_HOOKS if callable(getattr(counts, name))]
    assert left == ["on_train_batch_end"]
    toy_trainer([counts, added], max_steps=2, max_epochs=-1).fit(ToyModule(), ToyData())
    assert counts.calls == ["on_before_backward", "on_train_batch_end"] * 2


def test_the_strategy_and_the_logger_have():
    strategy = ModelParallelStrategy(tensor_parallel_size=1)
    assert hasattr(strategy, "_data_parallel_size"), "ModelParallelStrategy: no _data_parallel_size"
    logger = WandbLogger(offline=True, log_model=False)
    for name in ("_wandb_init", "_log_model"):
        assert hasattr(logger, name), f"WandbLogger has no {name}"
    assert private.wandb_settings(logger) is logger._wandb_init
    assert not private.logs_checkpoints(logger)
    assert private.wandb_settings(object()) == {}


def test_saved_loops_have_the_keys_that_are_rewritten(tmp_path):
    class Rewrite(L.Callback):
        def on_save_checkpoint(self, trainer, pl_module, checkpoint):
            self.loops = checkpoint["loops"]["fit_loop"]
            private.restart_evaluation(self.loops)
            private.reopen_epoch(self.loops, whole=False)

    rewrite = Rewrite()
    trainer = toy_trainer([rewrite], max_epochs=1)
    trainer.fit(ToyModule([0.1]), ToyData())
    trainer.save_checkpoint(tmp_path / "any.ckpt")
    evaluation = rewrite.loops["epoch_loop.val_loop.batch_progress"]
    assert evaluation["current"]["ready"] == 0
    assert evaluation["total"]["started"] == 1
    epoch = rewrite.loops["epoch_progress"]["current"]
    assert epoch["completed"] == epoch["processed"] == epoch["ready"] - 1
