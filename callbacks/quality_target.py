"""Stop the clock and the training the moment the quality target is reached."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from callbacks.batch_facts import global_batch_size
from callbacks.clock import RunClock
from callbacks.target_text import target_text


class StopReason(StrEnum):
    """Why a run ended."""

    TARGET_REACHED = "TARGET_REACHED"
    BUDGET_EXHAUSTED = "BUDGET_EXHAUSTED"
    NON_FINITE = "NON_FINITE"
    INTERRUPTED = "INTERRUPTED"
    FAILED = "FAILED"


class StopRun(Exception):  # noqa: N818  (control flow, not an error)
    """Raised to leave the training loop at once, without another evaluation."""

    def __init__(self, reason: StopReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: when it ended and what it measured."""

    seconds: float
    """From run_start to the end of the evaluation, or to run_stop if that is earlier."""
    epoch: int
    """Whole epochs trained, counted from 1."""
    step: int
    """Optimizer steps taken."""
    samples: int
    """Training samples seen over all devices."""
    quality: dict[str, float]
    """Metric name -> value, only the metrics that the target names."""


@dataclass(frozen=True)
class LateEvaluation:
    """An evaluation whose values are still computed while training goes on."""

    values: Future[dict[str, float]]
    epoch: int
    step: int
    samples: int


@dataclass
class RunState:
    """The state of a run; written by ``QualityTarget``, read by every other callback."""

    clock: RunClock = field(default_factory=RunClock)
    samples: int = 0
    samples_before_resume: int = 0
    evaluations: list[Evaluation] = field(default_factory=list)
    eval_seconds: float = 0.0
    evaluation_end: float = 0.0
    """Monotonic time at which the newest evaluation's result was known."""
    wait_seconds: float = 0.0
    """Time between steps, part of training: waiting for data, and Lightning's own work."""
    global_batch_size: int = 0
    train_loss: float | None = None
    """The newest training loss that was read; reading one makes a GPU wait."""
    stop_reason: StopReason | None = None
    late: LateEvaluation | None = None
    """The newest evaluation while its result is not known yet."""
    resumed: bool = False
    recorded: bool = False
    """Whether the run's final record has been written."""

    @property
    def quality(self) -> dict[str, float]:
        """Metric name -> value of the newest evaluation; empty before the first."""
        return self.evaluations[-1].quality if self.evaluations else {}


class QualityTarget(Callback):
    """Own the clock and decide, equally on every rank, when the target is reached.

    The clock starts (``run_start``) in ``on_fit_start``, before the training iterator exists, and
    stops (``run_stop``) in ``on_validation_end``. Comparison is inclusive and without rounding.
    For a module with ``stops_at_weights = True`` (allowed where the reference evaluates saved
    weights after the run) the clock stops at the last update of the weights that reach the target:
    the last evaluation is not timed, those before it are.
    A module whose ``late_metrics`` (a future: metric name -> value) is set after an evaluation on
    one device trains on meanwhile. The result is read after the first step that finds it, or
    waited for before the next evaluation and at the end; then the clock stops if it is reached.
    Callbacks hear of it by ``on_late_evaluation(trainer, pl_module)``.

    Args:
        metrics: Values to reach in one evaluation. Names are the module's, without ``val/``.
        mode: ``max``: at or above, ``min``: at or below.
        state: The run's shared state; a new one by default.

    Raises:
        ValueError: If there is no metric, a target is not finite or the mode is another word.

    Source:
        mlcommons/training_policies, training_rules.adoc (v1.0): halting and timing rules.
    """

    def __init__(
        self,
        metrics: Mapping[str, float],
        mode: Literal["max", "min"],
        *,
        state: RunState | None = None,
    ) -> None:
        if mode not in ("max", "min"):
            raise ValueError(f"target mode is {mode!r}; allowed: 'max' (>=) and 'min' (<=)")
        if not metrics or not all(math.isfinite(value) for value in metrics.values()):
            raise ValueError(
                f"target metrics are {dict(metrics)}; at least one finite value needed"
            )
        self.metrics = {name.removeprefix("val/"): float(v) for name, v in metrics.items()}
        self.mode = mode
        self.state = state or RunState()
        self._eval_start = 0.0
        self._step_end: float | None = None
        self._steps = 0

    @property
    def step_end(self) -> float | None:
        """Monotonic time of the newest step's end; None before one and in an evaluation."""
        return self._step_end

    def reached(self, quality: Mapping[str, float]) -> bool:
        """Whether every target metric is at or past its value; NaN never is."""
        if self.mode == "max":
            return all(quality[name] >= value for name, value in self.metrics.items())
        return all(quality[name] <= value for name, value in self.metrics.items())

    def text(self) -> str:
        """Return the target in words, e.g. ``mean_dice >= 0.908``."""
        return target_text(self.metrics, self.mode)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        known = getattr(pl_module, "metric_names", None)
        if known is not None:
            self._check_metrics(set(known))
        if stage == "fit" and not trainer.enable_validation:
            raise ValueError(
                "evaluation is switched off (trainer.limit_val_batches or no validation_step), "
                "so the target could never be reached; remove that setting"
            )

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        clock = self.state.clock
        trainer.strategy.barrier("init_stop")
        clock.mark("init_stop")
        clock.mark("run_start")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.state.global_batch_size = global_batch_size(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._step_end is not None:
            self.state.wait_seconds += self.state.clock.now() - self._step_end

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        state = self.state
        self._step_end = state.clock.now()
        state.samples += state.global_batch_size // trainer.accumulate_grad_batches
        self._steps += 1
        if state.late is not None and state.late.values.done():
            self._finish_late(trainer, pl_module)
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        # Steps of the whole run: an epoch may be shorter than the logging interval.
        if every and self._steps % every == 0:
            self._check_loss(trainer, outputs)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.state.late is not None and not trainer.sanity_checking:
            self._finish_late(trainer, pl_module)
        if pl_module.device.type == "cuda":
            # Steps may still be queued, and the clock may stop at the weights that they make.
            torch.cuda.synchronize(pl_module.device)
        self._eval_start = self.state.clock.now()
        self._step_end = None  # evaluation is not a wait for data

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        state = self.state
        values: Any = getattr(pl_module, "late_metrics", None)
        if values is not None:
            where = (trainer.current_epoch + 1, trainer.global_step, state.samples)
            state.late = LateEvaluation(values, *where)
            state.eval_seconds += state.clock.now() - self._eval_start
            return
        quality = self.read(trainer)
        state.evaluation_end = state.clock.now()
        finite = all(math.isfinite(value) for value in quality.values())
        # Rank 0 decides for all: a rank that stops or trains on alone would hang the others.
        reached, finite = trainer.strategy.broadcast((self.reached(quality), finite))
        at_weights = reached and getattr(pl_module, "stops_at_weights", False)
        stopped_at = self._eval_start if at_weights else state.evaluation_end
        state.eval_seconds += stopped_at - self._eval_start
        if reached:
            self.stop(StopReason.TARGET_REACHED, stopped_at)
        state.evaluations.append(
            Evaluation(
                seconds=state.clock.seconds,
                epoch=trainer.current_epoch + 1,
                step=trainer.global_step,
                samples=state.samples,
                quality=quality,
            )
        )
        if reached:
            trainer.should_stop = True
        elif not finite:
            raise StopRun(StopReason.NON_FINITE, f"the evaluation gave {quality}")

    def _finish_late(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *, leave: bool = True
    ) -> None:
        """Take the result of a late evaluation, and leave the training if it decides the run."""
        state, late = self.state, self.state.late
        assert late is not None
        start = state.clock.now()
        values = late.values.result()
        state.evaluation_end = state.clock.now()
        state.eval_seconds += state.evaluation_end - start  # 0 unless it was waited for
        state.late = None
        self._check_metrics(set(values))
        quality = {name: values[name] for name in self.metrics}
        reached = self.reached(quality)
        if reached:
            self.stop(StopReason.TARGET_REACHED, state.evaluation_end)
        seconds = state.clock.seconds
        state.evaluations.append(Evaluation(seconds, late.epoch, late.step, late.samples, quality))
        for logger in trainer.loggers:
            rows = {f"val/{name}": value for name, value in values.items()}
            logger.log_metrics(rows, step=late.step)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if callable(hook := getattr(callback, "on_late_evaluation", None)):
                hook(trainer, pl_module)
        if leave and reached:
            raise StopRun(StopReason.TARGET_REACHED, "")
        if leave and not all(math.isfinite(value) for value in quality.values()):
            raise StopRun(StopReason.NON_FINITE, f"the evaluation gave {quality}")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.state.late is not None:
            self._finish_late(trainer, pl_module, leave=False)
        if self.state.stop_reason is None:
            self.stop(StopReason.BUDGET_EXHAUSTED)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, KeyboardInterrupt) and not self.state.recorded:
            self.state.stop_reason = None  # a result without its last checkpoint is none
        used_up = getattr(exception, "reason", None) is StopReason.BUDGET_EXHAUSTED
        if used_up and self.state.late is not None:
            self._finish_late(trainer, pl_module, leave=False)
        if self.state.stop_reason is not None:
            return
        if isinstance(exception, StopRun):
            self.stop(exception.reason)
        elif isinstance(exception, KeyboardInterrupt | SystemExit):
            self.stop(StopReason.INTERRUPTED)
        else:
            self.stop(StopReason.FAILED)

    def stop(self, reason: StopReason, at: float | None = None) -> None:
        """Stop the clock, now or at a monotonic time in the past; the first reason given stays."""
        if self.state.stop_reason is None:
            self.state.clock.mark("run_stop", at)
            self.state.stop_reason = reason

    def read(self, trainer: L.Trainer) -> dict[str, float]:
        """Return the target's metrics of the evaluation that has just ended, unrounded.

        Args:
            trainer: The trainer.

        Returns:
            Metric name -> value.

        Raises:
            ValueError: If a metric was not logged; the message lists those that were.
        """
        logged = trainer.callback_metrics
        self._check_metrics({key.removeprefix("val/") for key in logged if key.startswith("val/")})
        return {name: float(logged[f"val/{name}"]) for name in self.metrics}

    def state_dict(self) -> dict[str, Any]:
        # Plain numbers, as checkpoints are loaded as weights only.
        return {"samples": self.state.samples}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the progress of an earlier run; from then on the run counts as resumed."""
        self.state.samples = self.state.samples_before_resume = int(state_dict["samples"])
        self.state.resumed = True

    def _check_metrics(self, known: set[str]) -> None:
        unknown = sorted(set(self.metrics) - known)
        if unknown:
            raise ValueError(
                f"target metric {', '.join(unknown)} does not exist; "
                f"this module measures: {', '.join(sorted(known)) or 'nothing'}"
            )

    def _check_loss(self, trainer: L.Trainer, outputs: Any) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, torch.Tensor):
            # Lightning gives this batch's share of the optimizer step.
            self.state.train_loss = float(loss) * trainer.accumulate_grad_batches
        finite = self.state.train_loss is None or math.isfinite(self.state.train_loss)
        # One rank's bad loss reaches all through the averaged gradient, so all must stop.
        if not trainer.strategy.reduce_boolean_decision(finite, all=True):
            raise StopRun(
                StopReason.NON_FINITE,
                f"the training loss is not finite at step {trainer.global_step}; "
                "lower the learning rate or use --trainer.precision 32-true",
            )
