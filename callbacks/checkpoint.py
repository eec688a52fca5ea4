"""Checkpoints: exact resume, orderly interruption, no half-written file."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from callbacks import lightning_private
from callbacks.checkpoint_files import KEPT, LAST, free_mib, keep, remove
from callbacks.evaluation_schedule import EvaluationSchedule
from callbacks.quality_target import RunState, StopReason, StopRun
from callbacks.random_states import random_states, set_random_states
from callbacks.signals import handled
from callbacks.writing import reason_of_failure, unwritable

# With several ranks each check is one collective: on GPUs that would stall every step.
STEPS_BETWEEN_CHECKS = {"cpu": 1, "cuda": 16}
# A loader that hands over nothing for so long after a signal is not waited for.
LOADER_SECONDS = 30.0


class Checkpoint(Callback):
    """Write a checkpoint after evaluations, when the last one is old enough, and at the end.

    Ctrl-C, SIGTERM and SIGHUP end the run after the step in progress: checkpoint, record, exit. An
    evaluation that was cut starts again when the run is resumed, with the random numbers it had.
    A second signal, or a loader that hands over no batch, ends it without that checkpoint.

    Args:
        every_seconds: Minimum seconds between two checkpoints. Also before the first; they are
            written inside the clock, but for the one at the target.
        folder: Gives the run's directory once it exists.
        state: The run's shared state.
        benchmark: Written into the checkpoint, so that another benchmark rejects it.
    """

    def __init__(
        self,
        every_seconds: float = 300.0,
        *,
        folder: Callable[[], Path],
        state: RunState,
        benchmark: str,
    ) -> None:
        self.every_seconds = every_seconds
        self._folder, self._state, self._benchmark = folder, state, benchmark
        self._last_saved = 0.0  # until the first checkpoint, when training began
        self._saved_step: int | None = None
        self._signals = 0
        self._waiting_for_data = False
        self._handlers: dict[int, Any] = {}
        self._random: dict[str, Any] | None = None
        self._resumed = False
        # Only while an evaluation runs: the generators' states before it.
        self._before_evaluation: dict[str, Any] | None = None
        self._common_batches = 0.0
        self._evaluate_first = False
        self._schedules: list[EvaluationSchedule] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = DirectIO()

    # Signals.

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self._check_disk(trainer, pl_module)
        # Before Lightning registers its own handlers, which comes right after this hook.
        self._handlers = {number: signal.getsignal(number) for number in handled()}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._last_saved = self._state.clock.now()
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        self._schedules = [c for c in callbacks if isinstance(c, EvaluationSchedule)]
        # Lightning has set its own handlers by now; they broadcast from inside the handler, which
        # can deadlock, and Lightning asks for a broadcast before every step.
        lightning_private.disable_sigterm_broadcast(trainer)
        for number in self._handlers:
            signal.signal(number, self._on_signal)
        own_generators(trainer)
        if self._random is not None:
            set_random_states(self._random)
        if self._evaluate_first:  # the evaluation schedule decides only after a step
            progress = trainer.fit_loop.epoch_loop.batch_progress
            trainer.val_check_batch = progress.current.ready
            self._evaluate_first = False

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._waiting_for_data = False
        if self._resumed:
            # Lightning loses a step where the checkpoint was written at an evaluation's end.
            lightning_private.set_logged_step(trainer, trainer.global_step)
            self._resumed = False

    def _check_disk(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Better now than after hours.
        size = num_bytes(pl_module.parameters()) + sum(map(moment_bytes, trainer.optimizers))
        needed, free = 1 + KEPT * size // 2**20, free_mib(self._folder())
        if free < needed:
            raise OSError(
                f"{self._folder()}: {free} MiB are free, but {KEPT} checkpoints need at least "
                f"{needed} MiB; make room or choose another directory with --output_root DIR"
            )

    def _on_signal(self, number: int, frame: Any) -> None:
        self._signals += 1
        # A third one has no effect until the second one's end is recorded.
        if self._signals == 2:
            raise KeyboardInterrupt
        if self._signals == 1 and self._waiting_for_data:
            timer = threading.Timer(LOADER_SECONDS, self._end_wait)
            timer.daemon = True
            timer.start()

    def _end_wait(self) -> None:
        if self._waiting_for_data and self._handlers:
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGINT)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restore_handlers()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    # Saving.

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        evaluating_next = trainer.val_check_batch == batch_idx + 1
        last = lightning_private.epoch_is_complete(trainer)
        self._waiting_for_data = not (evaluating_next or last)
        if evaluating_next or last:
            return
        if trainer.accumulate_grad_batches > 1 and lightning_private.accumulates(trainer):
            return
        if self._at_budget_end(trainer, complete=False):
            self.save(trainer)
        elif self._time_to_check(trainer, pl_module, trainer.global_step):
            self._leave_if_signalled(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._before_evaluation = random_states()
            # Ranks may have one batch more or less, and each check is a collective.
            mine = torch.tensor(float(sum(trainer.num_val_batches)), device=pl_module.device)
            self._common_batches = float(trainer.strategy.reduce(mine, reduce_op="min"))

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._before_evaluation is None or batch_idx + 1 >= self._common_batches:
            return
        if self._time_to_check(trainer, pl_module, batch_idx):
            self._leave_if_signalled(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._before_evaluation = None
        mid_epoch = not lightning_private.epoch_is_complete(trainer)
        if trainer.state.fn == "fit" and not trainer.sanity_checking and mid_epoch:
            self._save_and_leave_if_signalled(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save_and_leave_if_signalled(trainer)

    def _save_and_leave_if_signalled(self, trainer: L.Trainer) -> None:
        # At the end of the budget nothing is left to interrupt or to resume.
        complete = lightning_private.epoch_is_complete(trainer)
        over = self._state.stop_reason is not None or self._at_budget_end(trainer, complete)
        self._save_if_old(trainer, over)
        if not over:
            self._leave_if_signalled(trainer)

    @staticmethod
    def _time_to_check(trainer: L.Trainer, pl_module: L.LightningModule, count: int) -> bool:
        if trainer.world_size == 1:
            return True
        return count % STEPS_BETWEEN_CHECKS.get(pl_module.device.type, 16) == 0

    def _save_if_old(self, trainer: L.Trainer, over: bool) -> None:
        if over and self._saved_step == trainer.global_step:
            return
        old = self._state.clock.now() - self._last_saved >= self.every_seconds
        if trainer.strategy.broadcast(old or over):
            self.save(trainer)

    def _at_budget_end(self, trainer: L.Trainer, complete: bool) -> bool:
        """Whether no step follows, at the end of an epoch or (not ``complete``) within one."""
        return any((s.counts_samples or complete) and s.used_up(trainer) for s in self._schedules)

    def _leave_if_signalled(self, trainer: L.Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(self._signals > 0, all=False):
            self.save(trainer)
            raise StopRun(StopReason.INTERRUPTED, "interrupted by a signal")

    @property
    def run_is_over(self) -> bool:
        """Whether something has ended the run."""
        return self._state.stop_reason is not None

    def save_last(self, trainer: L.Trainer) -> None:
        """Write ``last.ckpt`` after the last epoch, unless it holds these weights already."""
        if self._saved_step != trainer.global_step:
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Write a checkpoint between two steps and keep the one before as ``previous.ckpt``."""
        path = self._folder() / "checkpoints" / LAST
        fresh = path.with_name(f"{LAST}.new")
        self._waiting_for_data = False
        try:
            path.parent.mkdir(exist_ok=True)
            if trainer.is_global_zero and fresh.is_dir():
                remove(fresh)  # of a save that failed; a file is overwritten
            trainer.save_checkpoint(fresh)
            if trainer.is_global_zero:
                keep(fresh)
        except (OSError, RuntimeError) as error:  # torch's writer raises the latter
            if isinstance(error, RuntimeError) and not _is_writers(error):
                raise
            reason = getattr(error, "strerror", None) or reason_of_failure(path.parent)
            # The half-written file goes first, so that the record and the log still fit.
            with suppress(OSError):
                remove(fresh)
            hint = " (--ckpt_path last resumes from the last checkpoint that was written)"
            raise unwritable(path, reason, hint) from error
        trainer.strategy.barrier("checkpoint")
        self._last_saved, self._saved_step = self._state.clock.now(), trainer.global_step

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["finishline_benchmark"] = self._benchmark
        checkpoint["finishline_random"] = self._before_evaluation or random_states()
        checkpoint["finishline_evaluate_first"] = self._before_evaluation is not None
        checkpoint["finishline_accumulation"] = trainer.accumulate_grad_batches
        loops = checkpoint["loops"]["fit_loop"]
        if self._before_evaluation is not None:
            lightning_private.restart_evaluation(loops)
        epoch = loops["epoch_progress"]["current"]
        if epoch["completed"] == epoch["ready"]:  # only after the run's last epoch
            whole = lightning_private.epoch_is_complete(trainer)
            lightning_private.reopen_epoch(loops, whole=whole)

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._random = checkpoint.get("finishline_random")
        self._evaluate_first = checkpoint.get("finishline_evaluate_first", False)
        now = trainer.accumulate_grad_batches
        before = checkpoint.get("finishline_accumulation", now)
        if before != now and "loops" in checkpoint:
            lightning_private.recount_batches(checkpoint["loops"]["fit_loop"], before, now)
        self._resumed = True


class LastCheckpoint(Callback):
    """Save the last weights of a run that Lightning's own limits end, before its record is closed.

    Args:
        checkpoint: Writes them. It has its own, later place among the callbacks, as it may end a
            run in hooks where others still have to record something.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def on_late_evaluation(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the weights of a run that ends between two steps, past those that it evaluated."""
        if self._checkpoint.run_is_over:
            self._checkpoint.save_last(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._checkpoint.save_last(trainer)


class DirectIO(TorchCheckpointIO):
    """Write straight into the file: Lightning goes through memory and TMPDIR, where it may fail."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        with open(path, "wb") as file:
            torch.save(checkpoint, file)


def num_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Return the bytes of tensors, of sharded ones on all ranks together."""
    return sum(x.numel() * x.element_size() for x in tensors if not is_lazy(x))


def moment_bytes(optimizer: Optimizer) -> int:
    """Return the bytes that an optimizer will keep, as its settings tell before the first step."""
    return sum(
        num_bytes(group["params"]) * (2 if "betas" in group else bool(group.get("momentum")))
        for group in optimizer.param_groups
    )


def _is_writers(error: RuntimeError) -> bool:
    """Whether torch's writer of zip files raised an error."""
    words = ("PytorchStreamWriter", "inline_container", "file write", "iostream")
    return any(word in str(error) for word in words)


def own_generators(trainer: L.Trainer) -> None:
    """Give every loader a random generator of its own."""
    # An iterator draws its workers' seed from torch's global generator, and a resumed run makes one
    # iterator fewer than a run that was never cut, so dropout would differ from then on.
    for loader in lightning_private.loaders(trainer):
        if loader.generator is None:
            loader.generator = torch.Generator().manual_seed(torch.initial_seed() % 2**32)
