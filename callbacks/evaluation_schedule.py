"""When to evaluate and when to give up, in epochs or samples, as each benchmark's rules say."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Callback

from callbacks.batch_facts import global_batch_size, samples_per_epoch
from callbacks.quality_target import StopReason, StopRun

NEVER = 2**62  # a batch number that no epoch reaches


class EvaluationSchedule(Callback):
    """Evaluate after given amounts of training, which Lightning's own options cannot express.

    Amounts are ``first``, ``first + every``, ``first + 2 * every`` ... With unit ``samples`` and
    ``round_to`` ``epoch``, ``first``, ``every`` and ``limit`` are each rounded up to whole epochs,
    as the rules of 3D U-Net do; with ``round_to`` ``step`` an evaluation happens after the first
    optimizer step at or past the amount. A module whose learning rate reaches 0 has
    ``schedule_steps``, the optimizer steps until then: as nothing changes after them, its run ends
    with the first evaluation from there on, if that comes before the limit.

    Args:
        every: Training between evaluations, in ``unit``.
        first: Training before the first, in ``unit``. By default ``every``.
        limit: Training until the run gives up, in ``unit``. By default there is no limit.
        unit: Unit of the amounts. An epoch's samples are the padded number that it trains on.
        round_to: What samples are rounded up to.
        at: Evaluations before ``first``, in ``unit``.

    Attributes:
        every_of_batch: Gives ``every`` (and ``first``) from the global batch size, where the rules
            make it depend on that.

    Raises:
        ValueError: If an amount is not positive or a limit comes before the first evaluation.

    Source:
        mlcommons/training_policies, training_rules.adoc (v1.0), table "Quality evaluation".
    """

    def __init__(
        self,
        every: float = 1,
        *,
        first: float | None = None,
        limit: float | None = None,
        unit: Literal["epochs", "samples"] = "epochs",
        round_to: Literal["epoch", "step"] = "epoch",
        at: Sequence[float] = (),
    ) -> None:
        first = every if first is None else first
        amounts = [every, first, *at] + ([] if limit is None else [limit])
        if min(amounts) <= 0:
            raise ValueError(f"evaluation amounts must be positive, got {amounts}")
        if limit is not None and limit < min([first, *at]):
            raise ValueError(f"evaluation.limit {limit} comes before the first evaluation {first}")
        self.every, self.first, self.limit = every, first, limit
        self.unit, self.round_to, self.at = unit, round_to, tuple(sorted(at))
        self.every_of_batch: Callable[[int], float] | None = None
        self._last_step, self._why = NEVER, ""
        self._epoch, self._per_epoch = -1, 0

    @property
    def counts_samples(self) -> bool:
        """Whether ``next_amount`` counts samples; otherwise epochs."""
        return self.unit == "samples" and self.round_to == "step"

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.check_val_every_n_epoch = 1
        if self.every_of_batch is not None:
            self.first = self.every = self.every_of_batch(global_batch_size(trainer))
        if self.counts_samples:
            self._set_last_step(trainer, getattr(pl_module, "schedule_steps", None))
        elif self.limit is not None and trainer.fit_loop.max_epochs in (None, -1):
            per_epoch = samples_per_epoch(trainer) if self.unit == "samples" else 1
            trainer.fit_loop.max_epochs = math.ceil(self.limit / per_epoch)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Not Lightning's max_steps: it evaluates once more, off the schedule, and it miscounts
        # epochs when a run is resumed at an epoch's end.
        if trainer.global_step >= self._last_step:
            raise StopRun(StopReason.BUDGET_EXHAUSTED, self._why)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        # After this hook Lightning evaluates if (batch_idx + 1) is a multiple of val_check_batch.
        trainer.val_check_batch = batch_idx + 1 if self._due(trainer, batch_idx) else NEVER

    def next_amount(self, done: float, samples_per_epoch: int) -> float:
        """Return the first amount after ``done`` at which to evaluate, in the same unit.

        That unit is epochs, or samples with ``round_to`` ``step``.
        """
        first, every = self.first, self.every
        if self.unit == "samples" and self.round_to == "epoch":
            first, every = (math.ceil(x / samples_per_epoch) for x in (first, every))
        for amount in self.at:
            if done < amount < first:
                return amount
        if done < first:
            return first
        return first + every * (math.floor((done - first) / every) + 1)

    def used_up(self, trainer: L.Trainer) -> bool:
        """Whether no further step will be trained; with epochs, to be asked at an epoch's end."""
        if self.counts_samples:
            return trainer.global_step >= self._last_step
        epochs = trainer.fit_loop.max_epochs
        return epochs not in (None, -1) and trainer.current_epoch + 1 >= epochs

    def _set_last_step(self, trainer: L.Trainer, schedule_steps: int | None) -> None:
        batch = global_batch_size(trainer)
        if self.limit is not None:
            self._last_step = math.ceil(self.limit / batch)
            self._why = f"evaluation.limit {self.limit:g} samples"
        if schedule_steps is None:
            return
        # The evaluation after the last step that changes the weights, or after a later one.
        amount = self.next_amount((schedule_steps - 1) * batch, samples_per_epoch(trainer))
        if (step := math.ceil(amount / batch)) < self._last_step:
            self._last_step = step
            self._why = f"the learning rate is 0 from step {schedule_steps:,} on"

    def _due(self, trainer: L.Trainer, batch_idx: int) -> bool:
        last = batch_idx + 1 == trainer.num_training_batches
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return last  # these batches are all there will be
        if not (last or self.counts_samples):
            return False
        per_epoch = self._samples_of_epoch(trainer)
        if self.counts_samples:
            accumulation = trainer.accumulate_grad_batches
            if (batch_idx + 1) % accumulation and not last:
                return False
            per_step = per_epoch / trainer.num_training_batches * accumulation
            before_epoch = trainer.current_epoch * per_epoch
            done = before_epoch + per_epoch * (batch_idx + 1) / trainer.num_training_batches
            return self.next_amount(done - per_step, per_epoch) <= done
        done = trainer.current_epoch + 1
        return self.next_amount(done - 1, per_epoch) == done

    def _samples_of_epoch(self, trainer: L.Trainer) -> int:
        """Ask the data module once an epoch: it may have to count."""
        if self._epoch != trainer.current_epoch:
            self._epoch, self._per_epoch = trainer.current_epoch, samples_per_epoch(trainer)
        return self._per_epoch
