"""Progress: one live line in a terminal, an occasional line in a log file."""

from __future__ import annotations

import math
import os
import shutil
import sys
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar

from callbacks.batch_facts import samples_per_epoch
from callbacks.evaluation_schedule import EvaluationSchedule
from callbacks.quality_target import QualityTarget
from callbacks.target_text import SIGNS

SECONDS_BETWEEN_UPDATES = 0.2
# A log file gets a line after 10 s without one, then after 20 s, 40 s ...
FIRST_SILENCE_SECONDS, LONGEST_SILENCE_SECONDS = 10.0, 600.0
FORESEEABLE_SECONDS = 100 * 24 * 3600.0  # `speed` never evaluates: no evaluation is due then
LOG_COLUMNS = 79
ERASE_LINE = "\r\x1b[2K"


def human_time(seconds: float) -> str:
    """Write a duration as ``8.3 s``, ``2:05`` (minutes) or ``3:02:05`` (hours)."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress(ProgressBar):
    """Show epoch, quality, target, elapsed time and an estimate of the time left.

    A terminal shows one line that is updated in place and one permanent line per evaluation; a pipe
    or file gets the permanent lines, and others between evaluations at growing intervals. No line
    is wider than the terminal, or than 79 columns in a file. There are no colours.

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
        self._live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._shown_at: float | None = None
        self._silence = FIRST_SILENCE_SECONDS
        self._begun: tuple[float, float] | None = None  # epochs and clock at the first step seen

    def disable(self) -> None:
        # Called by Lightning on every rank but 0.
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._shown_at = self._target.state.clock.now()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        clock = self._target.state.clock
        if self._begun is None:
            self._begun = (epochs_done(trainer, batch_idx + 1), clock.seconds)
        silent = clock.now() - (self._shown_at or 0.0)
        if silent < (SECONDS_BETWEEN_UPDATES if self._live else self._silence):
            return
        if not self._live:
            self._silence = min(2 * self._silence, LONGEST_SILENCE_SECONDS)
        self._show(self.line(trainer, batch_idx + 1), end="" if self._live else "\n")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and self._target.state.evaluations:
            self._show(self.line(trainer, None), end="\n")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._erase()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self._erase()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the live line."""
        if self._enabled:
            self._erase()
            print(*args, **kwargs)

    def _erase(self) -> None:
        if self._enabled and self._live:
            print(ERASE_LINE, end="", file=sys.stderr, flush=True)

    def _show(self, line: str, end: str) -> None:
        self._shown_at = self._target.state.clock.now()
        if self._enabled:
            self._erase()
            print(line, end=end, file=sys.stderr, flush=True)

    def line(self, trainer: L.Trainer, batch: int | None) -> str:
        """Return the longest line that fits; ``batch`` is ``None`` right after an evaluation."""
        width = shutil.get_terminal_size().columns - 1 if self._live else LOG_COLUMNS
        epoch = f"epoch {trainer.current_epoch + 1}"
        step = "" if batch is None else f" step {batch}/{trainer.num_training_batches}"
        times = [human_time(self._target.state.clock.seconds)]
        left, pause = self.seconds_left(), self._seconds_to_evaluation(trainer, batch)
        if left is not None:
            times.append(f"about {human_time(left)} left")
        elif pause is not None:
            times.append(f"evaluation in {human_time(pause)}")
        shorter = [part.replace("about ", "~").replace("evaluation in ", "~") for part in times]
        wordings = [
            [epoch + step, *self._metrics("({sign} {goal:g})"), *times],
            [epoch + step, *self._metrics("({sign} {goal:g})"), *shorter],
            [epoch, *self._metrics("({sign} {goal:g})"), *shorter],
            [epoch, *self._metrics("/ {goal:g}"), *shorter],
        ]
        lines = [" | ".join(wording) for wording in wordings]
        return next((line for line in lines if len(line) <= width), lines[-1][:width])

    def _metrics(self, target: str) -> list[str]:
        quality = self._target.state.quality
        sign = SIGNS[self._target.mode]
        values = {name: f"{quality[name]:.4f}" if quality else "-" for name in self._target.metrics}
        return [
            f"{name} {values[name]} {target.format(sign=sign, goal=goal)}"
            for name, goal in self._target.metrics.items()
        ]

    def _seconds_to_evaluation(self, trainer: L.Trainer, batch: int | None) -> float | None:
        """Estimate the time to the next evaluation from the mean pace so far."""
        if batch is None or self._schedule is None or self._begun is None:
            return None
        done = epochs_done(trainer, batch)
        trained = done - self._begun[0]
        spent = self._target.state.clock.seconds - self._begun[1]
        if trained <= 0:
            return None
        per_epoch = samples_per_epoch(trainer)
        if self._schedule.counts_samples:
            due = self._schedule.next_amount(done * per_epoch, per_epoch) / per_epoch
        else:
            due = self._schedule.next_amount(trainer.current_epoch, per_epoch)
        seconds = max(0.0, due - done) * spent / trained
        return seconds if seconds < FORESEEABLE_SECONDS else None

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


def epochs_done(trainer: L.Trainer, batch: int) -> float:
    """Return the epochs trained, a fraction, after ``batch`` batches of the current one."""
    return trainer.current_epoch + batch / max(1, trainer.num_training_batches)
