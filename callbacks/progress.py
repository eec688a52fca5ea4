"""Progress for people: one live line in a terminal, now and then a line in a log file."""

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

SECONDS_BETWEEN_UPDATES = 0.2
# A log file gets a line 10 s after the last one, then after 20 s, 40 s ... of silence.
FIRST_SILENCE_SECONDS, LONGEST_SILENCE_SECONDS = 10.0, 600.0
FORESEEABLE_SECONDS = 100 * 24 * 3600.0  # `speed` never evaluates: nothing is due then
LOG_COLUMNS = 79
ERASE_LINE = "\r\x1b[2K"


def human_time(seconds: float) -> str:
    """Write a duration the way a person reads it.

    Args:
        seconds: Seconds >= 0.

    Returns:
        ``8.3 s``, ``2:05`` (minutes) or ``3:02:05`` (hours).
    """
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress(ProgressBar):
    """Shows epoch, quality, target, elapsed time and an estimate of the time left.

    A terminal shows one line that changes in place and one that stays per evaluation; a pipe or
    file gets the lines that stay, and between evaluations a line after growing silences. No line
    is wider than the terminal, or than 79 columns in a file. There are no colours.

    The estimate continues the straight line through the last three evaluations up to the target.
    Before two evaluations, or while the quality does not improve, the time to the next evaluation
    is given instead.

    Args:
        target: Owner of the run's state.
        schedule: Knows when the next evaluation is due; without it no time to it is shown.
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
        """Show nothing (every rank but 0)."""
        self._enabled = False

    def enable(self) -> None:
        """Show again."""
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
        """Print above the live line.

        Args:
            *args: As ``print``.
            **kwargs: As ``print``.
        """
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
        """What is known of the run, in one line that fits.

        Args:
            trainer: The trainer.
            batch: Batches of this epoch that are done; ``None`` right after an evaluation.

        Returns:
            The longest wording that the terminal's width (79 columns in a file) has room for.
        """
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
        """Each metric's newest value beside its target."""
        quality = self._target.state.quality
        sign = ">=" if self._target.mode == "max" else "<="
        values = {name: f"{quality[name]:.4f}" if quality else "-" for name in self._target.metrics}
        return [
            f"{name} {values[name]} {target.format(sign=sign, goal=goal)}"
            for name, goal in self._target.metrics.items()
        ]

    def _seconds_to_evaluation(self, trainer: L.Trainer, batch: int | None) -> float | None:
        """Time to the next evaluation at the mean pace so far; ``None`` where it is not known."""
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
        """Estimate the time to the target from the trend of the last evaluations.

        Returns:
            Seconds from now, or ``None`` where no estimate is possible or needed.
        """
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
    """Epochs trained, counted in fractions.

    Args:
        trainer: The trainer.
        batch: Batches of this epoch that are done.

    Returns:
        Epochs >= 0.
    """
    return trainer.current_epoch + batch / max(1, trainer.num_training_batches)
