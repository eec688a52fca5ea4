"""Progress: one live line in a terminal, an occasional line in a log file."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ProgressBar

from callbacks.batch_facts import samples_per_epoch
from callbacks.evaluation_schedule import EvaluationSchedule
from callbacks.live_line import LIVE, human_time, on_terminal
from callbacks.quality_target import QualityTarget
from callbacks.target_text import SIGNS

# A log file gets a line after 10 s without one, then after 20 s, 40 s ...
FIRST_SILENCE_SECONDS, LONGEST_SILENCE_SECONDS = 10.0, 600.0
FORESEEABLE_SECONDS = 100 * 24 * 3600.0  # `speed` never evaluates: no evaluation is due then
SECONDS_FOR_A_PACE = 0.5
LOG_COLUMNS = 79


class Progress(ProgressBar):
    """Show epoch, loss, pace, quality, target, elapsed time and an estimate of the time left.

    A terminal shows one line that is updated in place, also during an evaluation, and one permanent
    line per evaluation; a pipe or file gets the permanent lines, and others between evaluations at
    growing intervals. No line is wider than the terminal, or than 79 columns in a file. There are
    no colours.

    The estimate extrapolates the last three evaluations linearly to the target. Before two
    evaluations, or while the quality does not improve, the time to the next evaluation is shown.

    Args:
        target: Owns the run's state.
        schedule: Gives the next evaluation; without it no time to that is shown.
    """

    def __init__(self, target: QualityTarget, schedule: EvaluationSchedule | None = None) -> None:
        super().__init__()
        self._target, self._schedule = target, schedule
        self._enabled = True
        self._live = on_terminal()
        self._shown_at: float | None = None
        self._silence = FIRST_SILENCE_SECONDS
        self._batch = 0
        self._newest_loss: Any = None
        # Training without a break since: epochs, samples and clock at its start; the last pace.
        self._stretch: tuple[float, int, float] | None = None
        self._pace: tuple[float, float] | None = None  # epochs and samples per second
        self._evaluated: int | None = None  # batches of the evaluation in progress
        self._evaluation_began = self._evaluation_took = 0.0

    def disable(self) -> None:
        # Called by Lightning on every rank but 0.
        self._enabled = self._live = False

    def enable(self) -> None:
        self._enabled, self._live = True, on_terminal()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._shown_at = self._target.state.clock.now()
        self._show_live(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._batch = 0

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        # Only the loss: the rest of what a step returns must not outlive it.
        self._newest_loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        self._batch = batch_idx + 1
        if self._stretch is None:  # not before: the first step is slow, and may be mid-epoch
            self._begin_stretch(trainer, self._batch)
        if self._live:
            return  # the line's thread reads them
        if self._target.state.clock.now() - (self._shown_at or 0.0) >= self._silence:
            self._silence = min(2 * self._silence, LONGEST_SILENCE_SECONDS)
            self._print(self.line(trainer, self._batch))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._evaluated, self._evaluation_began = 0, self._target.state.clock.now()
        self._show_live(trainer)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._evaluated = (self._evaluated or 0) + 1

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        self._evaluated = None
        self._evaluation_took = self._target.state.clock.now() - self._evaluation_began
        if self._target.state.evaluations and self._target.state.late is None:
            self._print(self.line(trainer, None))
            self._begin_stretch(trainer, self._batch)

    def on_late_evaluation(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the result of an evaluation that was known only during later training."""
        self._print(self.line(trainer, None))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        LIVE.show("writing the run's files")

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        LIVE.show("writing the run's files")

    def print(self, *args: Any, **kwargs: Any) -> None:
        if self._enabled:
            print(*args, **kwargs)

    def _print(self, line: str) -> None:
        self._shown_at = self._target.state.clock.now()
        if self._enabled:
            print(line, file=sys.stderr, flush=True)

    def _show_live(self, trainer: L.Trainer) -> None:
        if self._enabled:
            LIVE.show(lambda: self.live_text(trainer))

    def live_text(self, trainer: L.Trainer) -> str:
        """Return what the terminal's last line says now; called by its thread.

        A log file's lines of training are written after steps, so there is nothing meanwhile.
        """
        if self._target.state.stop_reason is not None:
            return "writing the run's files" if self._live else ""
        evaluated = self._evaluated  # read once: the training thread changes it
        if evaluated is None:
            return self.line(trainer, self._batch) if self._live else ""
        return self._evaluation_line(evaluated, sum(trainer.num_val_batches))

    def line(self, trainer: L.Trainer, batch: int | None) -> str:
        """Return the longest line that fits; ``batch`` is ``None`` right after an evaluation."""
        evaluated = [e.epoch for e in self._target.state.evaluations[-1:] if batch is None]
        epoch = f"epoch {[trainer.current_epoch + 1, *evaluated][-1]}"
        long, short = self._metrics("({sign} {goal:g})"), self._metrics("/ {goal:g}")
        times = [human_time(self._target.state.clock.seconds), *self._estimate(trainer, batch)]
        if batch is None:
            briefer = [part.replace("about ", "~") for part in times]
            return self._fit([[epoch, *m, *t] for m in (long, short) for t in (times, briefer)])
        step = f"{epoch} step {batch}/{trainer.num_training_batches}"
        training = self._training(trainer)
        heads = [step, *training], [epoch, *training], training, [step]
        with_metrics = [[*head, *m, *times] for head in heads[:3] for m in (long, short)]
        # The last value and its target are in the line above.
        return self._fit([*with_metrics, *([*head, *times] for head in heads), times])

    def _evaluation_line(self, done: int, batches: float) -> str:
        seconds = self._target.state.clock.now() - self._evaluation_began
        left = self._evaluation_took - seconds
        if left <= 0 < done:
            left = seconds / done * (batches - done)
        what = f"evaluation batch {done}/{batches}" if done < batches else "evaluation: scoring"
        when = [f"done in about {rough_time(left)}"] if 0 < left < FORESEEABLE_SECONDS else []
        clock = human_time(self._target.state.clock.seconds or seconds)
        return self._fit([[what, *when, *self._metrics("({sign} {goal:g})"), clock], [what, clock]])

    def _fit(self, wordings: Sequence[Sequence[str]]) -> str:
        width = shutil.get_terminal_size().columns - 1 if self._live else LOG_COLUMNS
        lines = [" | ".join(wording) for wording in wordings]
        return next((line for line in lines if len(line) <= width), lines[-1][:width])

    def _training(self, trainer: L.Trainer) -> list[str]:
        """Return the newest loss, and the pace since the last evaluation."""
        loss, parts = self._loss(trainer), []
        if loss is not None:
            parts.append(f"loss {loss:.4g}")
        if self._pace is not None and (pace := self._pace[1]):
            parts.append(f"{pace:,.0f} samples/s" if pace >= 100 else f"{pace:.3g} samples/s")
        return parts

    def _loss(self, trainer: L.Trainer) -> float | None:
        loss = self._newest_loss
        if isinstance(loss, torch.Tensor) and loss.device.type == "cpu":
            return float(loss) * trainer.accumulate_grad_batches
        return self._target.state.train_loss  # reading one now would wait for the GPU

    def _metrics(self, target: str) -> list[str]:
        quality = self._target.state.quality
        sign = SIGNS[self._target.mode]
        values = {name: f"{quality[name]:.4f}" if quality else "-" for name in self._target.metrics}
        return [
            f"{name} {values[name]} {target.format(sign=sign, goal=goal)}"
            for name, goal in self._target.metrics.items()
        ]

    def _estimate(self, trainer: L.Trainer, batch: int | None) -> list[str]:
        pause = None if batch is None else self._seconds_to_evaluation(trainer, batch)
        left = self.seconds_left()
        if left is not None:
            return [f"target in about {rough_time(left)}"]
        return [] if pause is None else [f"next evaluation in {rough_time(pause)}"]

    def _begin_stretch(self, trainer: L.Trainer, batch: int) -> None:
        state = self._target.state
        self._stretch = epochs_done(trainer, batch), state.samples, state.clock.now()

    def _seconds_to_evaluation(self, trainer: L.Trainer, batch: int) -> float | None:
        """Estimate the time to the next evaluation from the pace since the last one."""
        done = epochs_done(trainer, batch)
        self._measure_pace(done)
        if self._schedule is None or self._pace is None or self._stretch is None:
            return None
        per_epoch = samples_per_epoch(trainer)
        if self._schedule.counts_samples:
            due = self._schedule.next_amount(done * per_epoch, per_epoch) / per_epoch
        else:
            due = self._schedule.next_amount(trainer.current_epoch, per_epoch)
        passed = self._target.state.clock.now() - (self._target.step_end or self._stretch[2])
        seconds = max(0.0, (due - done) / self._pace[0] - passed)
        return seconds if seconds < FORESEEABLE_SECONDS else None

    def _measure_pace(self, epochs: float) -> None:
        if self._stretch is None:
            return
        before, samples, since = self._stretch
        # Not up to now: a step in progress would make the pace fall until it ends.
        seconds = (self._target.step_end or since) - since
        if seconds >= SECONDS_FOR_A_PACE and epochs > before:
            new = self._target.state.samples - samples
            self._pace = (epochs - before) / seconds, new / seconds

    def seconds_left(self) -> float | None:
        """Estimate the time to the target from the trend of the last evaluations."""
        evaluations = self._target.state.evaluations[-3:]
        if len(evaluations) < 2 or self._target.state.stop_reason is not None:
            return None
        first, last = evaluations[0], evaluations[-1]
        span, waits = last.seconds - first.seconds, []
        for name, goal in self._target.metrics.items():
            gain = last.quality[name] - first.quality[name]
            missing = goal - last.quality[name]
            if missing * (1 if self._target.mode == "max" else -1) <= 0:
                continue
            if missing * gain <= 0 or span <= 0:
                return None
            waits.append(missing / gain * span)
        if not waits:
            return None
        # The target can only be reached at an evaluation.
        pause = last.seconds - evaluations[-2].seconds
        wait = max(1, math.ceil(max(waits) / pause)) * pause
        return max(0.0, wait - (self._target.state.clock.seconds - last.seconds))


def rough_time(seconds: float) -> str:
    """Write an estimate: without a decimal, which would only flicker."""
    return f"{seconds:.0f} s" if seconds < 59.5 else human_time(round(seconds))


def epochs_done(trainer: L.Trainer, batch: int) -> float:
    """Return the epochs trained, a fraction, after ``batch`` batches of the current one."""
    return trainer.current_epoch + batch / max(1, trainer.num_training_batches)
