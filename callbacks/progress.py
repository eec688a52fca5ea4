"""Progress for people: one live line in a terminal, one line per evaluation in a log file."""

from __future__ import annotations

import math
import sys
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar

from callbacks.quality_target import QualityTarget

SECONDS_BETWEEN_UPDATES = 0.2


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

    The estimate continues the straight line through the last three evaluations up to the target;
    there is none before two evaluations or while the quality does not improve.

    Args:
        target: Owner of the run's state.
    """

    def __init__(self, target: QualityTarget) -> None:
        super().__init__()
        self._target = target
        self._enabled = True
        self._live = sys.stderr.isatty()
        self._shown_at = 0.0

    def disable(self) -> None:
        """Show nothing (every rank but 0)."""
        self._enabled = False

    def enable(self) -> None:
        """Show again."""
        self._enabled = True

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        now = self._target.state.clock.now()
        if self._live and now - self._shown_at >= SECONDS_BETWEEN_UPDATES:
            self._shown_at = now
            self._show(self._line(trainer, batch_idx + 1), end="\r")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and self._target.state.evaluations:
            self._show(self._line(trainer, None), end="\n")

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the live line.

        Args:
            *args: As ``print``.
            **kwargs: As ``print``.
        """
        if self._enabled:
            print(*args, **kwargs)

    def _show(self, line: str, end: str) -> None:
        if self._enabled:
            clear = "\x1b[2K" if self._live else ""
            print(clear + line[:79], end=end, file=sys.stderr, flush=True)

    def _line(self, trainer: L.Trainer, batch: int | None) -> str:
        state = self._target.state
        parts = [f"epoch {trainer.current_epoch + 1}"]
        if batch is not None:
            parts[0] += f" step {batch}/{trainer.num_training_batches}"
        for name, goal in self._target.metrics.items():
            sign = ">=" if self._target.mode == "max" else "<="
            value = f"{state.quality[name]:.4f}" if state.quality else "-"
            parts.append(f"{name} {value} ({sign} {goal:g})")
        parts.append(human_time(state.clock.seconds))
        left = self.seconds_left()
        if left is not None:
            parts.append(f"about {human_time(left)} left")
        return " | ".join(parts)

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
