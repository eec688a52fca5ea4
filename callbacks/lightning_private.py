"""Private attributes of Lightning that have no public counterpart, one function each.

Checked with lightning 2.6.6; tests/callbacks/test_lightning_private.py says which one is gone after
an upgrade.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

STEP_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_batch_start",
    "on_validation_batch_end",
)


def disable_sigterm_broadcast(trainer: L.Trainer) -> None:
    """Stop the broadcast before every step that asks all ranks for a SIGTERM."""
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore


def skip_empty_hooks(callback: Callback) -> None:
    """Remove the hooks of a batch that a callback does not define.

    Lightning calls each of them on every callback, at 2 to 4 microseconds, but passes over what is
    not callable.

    Args:
        callback: Changed in place.

    Source:
        lightning 2.6.6, pytorch/trainer/call.py, ``_call_callback_hooks``.
    """
    for name in STEP_HOOKS:
        if getattr(getattr(callback, name), "__func__", None) is getattr(Callback, name):
            setattr(callback, name, None)


def set_logged_step(trainer: L.Trainer, step: int) -> None:
    """Set the step number that loggers are given."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = step


def epoch_is_complete(trainer: L.Trainer) -> bool:
    """Whether all batches of the current epoch are done."""
    return trainer.fit_loop.epoch_loop._num_ready_batches_reached()


def accumulates(trainer: L.Trainer) -> bool:
    """Whether the current batch only accumulates its gradient, without an optimizer step."""
    return trainer.fit_loop.epoch_loop._should_accumulate()


def loaders(trainer: L.Trainer) -> Iterator[DataLoader[Any]]:
    """Yield the loaders of training and evaluation that exist by now."""
    for loop in (trainer.fit_loop, trainer.fit_loop.epoch_loop.val_loop):
        combined = loop._combined_loader
        for loader in () if combined is None else combined.flattened:
            if isinstance(loader, DataLoader):
                yield loader


def restart_evaluation(loops: dict[str, Any]) -> None:
    """Make the saved state of a fit loop look as if the evaluation in progress had just begun.

    Args:
        loops: State of the fit loop, changed in place.

    Source:
        lightning 2.6.6, pytorch/loops/evaluation_loop.py, ``update_restart_stage``: what it takes
        for "mid evaluation"; its batches are then read from the first.
    """
    progress = loops["epoch_loop.val_loop.batch_progress"]
    none = {"ready": 0, "started": 0, "processed": 0, "completed": 0}
    progress["total"].update(none, ready=1, started=1)
    progress["current"].update(none)
    progress["is_last_batch"] = False


def reopen_epoch(loops: dict[str, Any], *, whole: bool) -> None:
    """Make the saved state of a run that ended look as it did after the last step.

    Lightning takes an epoch that it cut for a whole one, and would resume with the next.

    Args:
        loops: State of the fit loop, changed in place.
        whole: Whether the epoch's last step was done.

    Source:
        lightning 2.6.6, pytorch/loops/fit_loop.py, ``update_restart_stage``: what it takes for
        "mid epoch" and "on epoch end".
    """
    for progress in (loops["epoch_progress"]["total"], loops["epoch_progress"]["current"]):
        progress["completed"] = progress["ready"] - 1
        progress["processed"] = progress["ready"] - (not whole)


def recount_batches(loops: dict[str, Any], before: int, now: int) -> None:
    """Count the batches of a saved fit loop in those of another accumulation.

    With the same global batch a step takes another number of them on another number of ranks.

    Args:
        loops: State of the fit loop, changed in place.
        before: Batches per step when it was saved.
        now: Batches per step from now on.
    """
    progress = loops["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        counts.update({key: -(-value // before) * now for key, value in counts.items()})


def set_data_parallel_size(strategy: Any, ranks: int) -> None:
    """Set the number of data-parallel ranks of a ``ModelParallelStrategy`` before its set-up."""
    strategy._data_parallel_size = ranks


def wandb_settings(logger: Any) -> dict[str, Any]:
    """Return what a ``WandbLogger`` will pass to ``wandb.init``, to be changed in place."""
    return getattr(logger, "_wandb_init", {})


def logs_checkpoints(logger: Any) -> bool:
    """Whether a ``WandbLogger`` was made with ``log_model``."""
    return bool(getattr(logger, "_log_model", False))
