"""Write the run's ``:::MLLOG`` lines with the official ``mlperf-logging`` package."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from callbacks.batch_facts import global_batch_size, samples_per_epoch
from callbacks.disclosure import disclosure
from callbacks.evaluation_schedule import EvaluationSchedule
from callbacks.lightning_private import epoch_is_complete
from callbacks.quality_target import RunState, StopReason
from callbacks.writing import reporting_errors, unwritable, writing

DROP_CACHES = Path("/proc/sys/vm/drop_caches")
INIT_LIMIT_SECONDS = 20 * 60

_log = logging.getLogger(__name__)


class MLPerfLog(Callback):
    """Write one log file per run, on rank 0, with the events in the official order.

    A resumed run's log has no ``run_start`` and no ``run_stop``: the clock may not be paused, so
    the official checker must reject such a log.

    Args:
        benchmark: Benchmark name of the log, e.g. ``unet3d``.
        state: The run's shared state.
        folder: Gives the run's directory once it exists; the file is ``result.txt`` in it.
        schedule: Gives the end of the block of epochs that follows an evaluation.
        division: Gives ``closed`` or ``open``.
        submission: Values of submission_org, submission_platform and submission_status.
        clear_cache: Drop the page cache before the run (needs root).
        unit: What ``epoch_num`` counts in evaluation events: whole epochs, samples, or 1 plus
            the fraction of the epochs, or that fraction. With samples, ``samples_count`` is the
            same number.
        quality_names: Log name of each metric where one event holds several.
        discloses: Whether to log precision, parallelism and the file of settings.

    Raises:
        ValueError: If ``clear_cache`` is set and the system does not permit it.

    Source:
        mlperf-logging 4.1.68, compliance_checker/training_1.0.0/*.yaml.
    """

    def __init__(
        self,
        *,
        benchmark: str,
        state: RunState,
        folder: Callable[[], Path],
        schedule: EvaluationSchedule,
        division: Callable[[], str],
        submission: Mapping[str, str],
        clear_cache: bool = False,
        unit: Literal["epochs", "samples", "fraction", "fraction_from_zero"] = "epochs",
        quality_names: Mapping[str, str] | None = None,
        discloses: bool = False,
    ) -> None:
        self._benchmark, self._state, self._folder = benchmark, state, folder
        self._schedule, self._division, self._submission = schedule, division, submission
        self._unit, self._first_epoch = unit.partition("_")[0], 0 if unit.endswith("zero") else 1
        self._quality_names = dict(quality_names or {})
        self._discloses = discloses
        self._logger: Any = None
        self._block_start: float | None = None
        self._late_where: dict[str, float] = {}  # of an evaluation whose result is not known yet
        self._open_epoch: int | None = None  # of those with evaluations inside
        self._data_logged: set[str] = set()
        self._clear_cache, self._cache_cleared = clear_cache, False
        if clear_cache:
            _check_permission()

    # Before the clock starts.

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        # After prepare_data, which may have filled the cache again.
        if self._clear_cache and trainer.local_rank == 0 and not self._cache_cleared:
            os.sync()
            DROP_CACHES.write_text("3")
            self._cache_cleared = True

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self._open(self._folder() / "result.txt")
        clock = self._state.clock
        start = clock.epoch_ms("init_start")
        self._event("submission_benchmark", self._benchmark, time_ms=start)
        self._event("submission_division", self._division(), time_ms=start)
        for key, value in self._submission.items():
            self._event(f"submission_{key}", value, time_ms=start)
        self._event("cache_clear", self._cache_cleared, time_ms=start)
        self._interval("start", "init_start", time_ms=start)
        ready = clock.epoch_ms("init_stop")
        if clock.between("init_start", "init_stop") > INIT_LIMIT_SECONDS:
            _log.warning(
                "initialisation took %.0f minutes, the rules allow 20 (the checker 30): "
                "run the prepare command before fit",
                clock.between("init_start", "init_stop") / 60,
            )
        self._log_facts(trainer, pl_module, time_ms=ready)
        self._interval("end", "init_stop", time_ms=ready)
        if self._state.resumed:
            self._event("resumed", True, {"samples": self._state.samples_before_resume})
        else:
            self._interval("start", "run_start", time_ms=clock.epoch_ms("run_start"))

    def _log_facts(self, trainer: L.Trainer, pl_module: Any, *, time_ms: int) -> None:
        facts: dict[str, Any] = {"seed": torch.initial_seed() % 2**32}
        facts["gradient_accumulation_steps"] = trainer.accumulate_grad_batches
        facts["global_batch_size"] = global_batch_size(trainer)
        facts |= disclosure(trainer) if self._discloses else {}
        facts |= pl_module.mllog_facts() if hasattr(pl_module, "mllog_facts") else {}
        for key, value in facts.items():
            self._event(key, value, time_ms=time_ms)
        for name in pl_module.mllog_tensors() if hasattr(pl_module, "mllog_tensors") else ():
            self._event("weights_initialization", None, {"tensor": name}, time_ms=time_ms)

    # While the clock runs.

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._logger is None:
            return
        datamodule: Any = getattr(trainer, "datamodule", None)
        facts = datamodule.mllog_facts() if hasattr(datamodule, "mllog_facts") else {}
        for key, value in facts.items():
            self._event(key, value)
        self._data_logged = set(facts)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._block_start is None:
            self._open_block(trainer)
        where = {"epoch_num": trainer.current_epoch + self._first_epoch}
        if self._unit != "samples":
            self._interval("start", "epoch_start", where)
        if self._unit == "fraction":
            self._open_epoch = where["epoch_num"]
        datamodule: Any = getattr(trainer, "datamodule", None)
        if self._logger is not None and hasattr(datamodule, "mllog_epoch_facts"):
            for key, value in datamodule.mllog_epoch_facts().items():
                self._event(key, value, where)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or self._logger is None:
            return
        if self._unit == "epochs":
            self._interval("end", "epoch_stop", {"epoch_num": trainer.current_epoch + 1})
        self._interval("start", "eval_start", self._where(trainer))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or self._logger is None:
            return
        clock, where = self._state.clock, self._where(trainer)
        if self._state.late is not None:
            self._late_where = where
            self._interval("end", "eval_stop", where)
            self._close_block(clock.epoch_ms())
        if self._state.late is not None or not self._state.evaluations:
            return
        time_ms = clock.epoch_ms(self._state.evaluation_end)
        self._event("eval_accuracy", self._quality(), where, time_ms=time_ms)
        self._interval("end", "eval_stop", where, time_ms=time_ms)
        self._close_block(time_ms)
        if "run_stop" in clock.marks:
            self._run_stop("success")
        elif not epoch_is_complete(trainer):
            self._open_block(trainer)

    def on_late_evaluation(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the result of an evaluation whose block ended before it was known."""
        if self._logger is None:
            return
        time_ms = self._state.clock.epoch_ms(self._state.evaluation_end)
        self._event("eval_accuracy", self._quality(), self._late_where, time_ms=time_ms)
        if self._state.stop_reason is StopReason.TARGET_REACHED:
            if self._unit == "epochs" and self._block_start is not None:  # within the next epoch
                where = {"epoch_num": trainer.current_epoch + 1}
                self._interval("end", "epoch_stop", where, time_ms=time_ms)
            self._close_block(time_ms)
            self._run_stop("success")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # An epoch that was evaluated has its epoch_stop before eval_start already.
        newest = self._state.late or next(iter(self._state.evaluations[-1:]), None)
        evaluated = newest is not None and newest.epoch == trainer.current_epoch + 1
        if self._unit == "epochs" and not evaluated:
            self._interval("end", "epoch_stop", {"epoch_num": trainer.current_epoch + 1})
        self._close_epoch()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._end()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        with reporting_errors("the log of the run is not complete"):
            self._end()

    def _end(self) -> None:
        if self._logger is not None and self._state.stop_reason is not StopReason.TARGET_REACHED:
            self._close_block(self._stop_ms())
            self._run_stop("aborted")

    def _stop_ms(self) -> int:
        # A run may have been stopped before the hook that reports it.
        clock = self._state.clock
        return clock.epoch_ms("run_stop" if "run_stop" in clock.marks else None)

    def _run_stop(self, status: str) -> None:
        time_ms = self._stop_ms()
        self._close_epoch(time_ms)
        if "train_samples" not in self._data_logged:
            # Benchmarks that count samples log how many the run took, known only now.
            self._event("train_samples", self._state.samples, time_ms=time_ms)
        if not self._state.resumed:
            self._interval("end", "run_stop", {"status": status}, time_ms=time_ms)
        logger, self._logger = self._logger, None
        for handler in list(logger.logger.handlers):
            handler.close()

    # Helpers.

    def _progress(self, trainer: L.Trainer) -> float:
        if self._unit == "samples":
            return self._state.samples
        if self._unit == "fraction":
            return self._first_epoch + self._state.samples / samples_per_epoch(trainer)
        return trainer.current_epoch + 1

    def _where(self, trainer: L.Trainer) -> dict[str, float]:
        """Return an evaluation's place in the run."""
        return {"epoch_num": self._progress(trainer), **self._samples_count()}

    def _samples_count(self) -> dict[str, int]:
        # Checkers from v4.0 on, and the RCP checker, read it of benchmarks that count samples.
        return {"samples_count": self._state.samples} if self._unit == "samples" else {}

    def _quality(self) -> Any:
        quality = self._state.quality
        if not self._quality_names:
            return next(iter(quality.values()))
        return {self._quality_names.get(name, name): value for name, value in quality.items()}

    def _open_block(self, trainer: L.Trainer) -> None:
        per_epoch = samples_per_epoch(trainer)
        done: float = self._progress(trainer)
        if self._unit == "epochs":
            count = self._schedule.next_amount(trainer.current_epoch, per_epoch)
            count = int(count) - trainer.current_epoch
        else:
            count = self._schedule.next_amount(self._state.samples, per_epoch)
            count -= self._state.samples
            count = count / per_epoch if self._unit == "fraction" else count
        self._block_start = done
        where = {"first_epoch_num": done, "epoch_count": count, **self._samples_count()}
        self._interval("start", "block_start", where)

    def _close_block(self, time_ms: int | None) -> None:
        if self._block_start is not None:
            where = {"first_epoch_num": self._block_start, **self._samples_count()}
            self._interval("end", "block_stop", where, time_ms=time_ms)
        self._block_start = None

    def _close_epoch(self, time_ms: int | None = None) -> None:
        if self._open_epoch is not None:
            self._interval("end", "epoch_stop", {"epoch_num": self._open_epoch}, time_ms=time_ms)
        self._open_epoch = None

    def _open(self, path: Path) -> None:
        # A separate logger: the package's default one also writes to standard output.
        from mlperf_logging.mllog.mllog import MLLogger

        plain = logging.Logger("finishline.mllog", logging.INFO)
        with writing(path):
            handler = _LogFile(path, mode="x")
        handler.setFormatter(logging.Formatter("%(message)s"))
        plain.addHandler(handler)
        self._logger = MLLogger(
            logger=plain, default_stack_offset=2, root_dir=re.escape(str(Path(__file__).parents[1]))
        )

    def _event(
        self, key: str, value: Any, metadata: Any = None, *, time_ms: int | None = None
    ) -> None:
        if self._logger is not None:
            time_ms = self._state.clock.epoch_ms() if time_ms is None else time_ms
            self._logger.event(key, value=value, metadata=metadata, time_ms=time_ms)

    def _interval(
        self, edge: str, key: str, metadata: Any = None, *, time_ms: int | None = None
    ) -> None:
        if self._logger is not None:
            time_ms = self._state.clock.epoch_ms() if time_ms is None else time_ms
            getattr(self._logger, edge)(key, metadata=metadata, time_ms=time_ms)


class _LogFile(logging.FileHandler):
    """A log whose error ends the run: without a line of it there is no result."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's name)
        error = sys.exc_info()[1]
        reason = getattr(error, "strerror", None) or str(error)
        raise unwritable(Path(self.baseFilename), reason) from error


def _check_permission() -> None:
    if not os.access(DROP_CACHES, os.W_OK):
        raise ValueError(
            f"submission.clear_cache: {DROP_CACHES} cannot be written; "
            "run as root, or clear the caches before the run and leave the flag out"
        )
