"""``run.json`` and ``curve.png``: what a run was, what it reached and how long that took."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from callbacks import wandb_run
from callbacks.clock import process_start
from callbacks.curve import run_title, save_curve
from callbacks.heartbeat import Heartbeat, pid_namespace
from callbacks.preserve_state import preserve_state
from callbacks.quality_target import QualityTarget, StopReason, StopRun
from callbacks.signals import signals_as
from callbacks.warm_up import WarmUp
from callbacks.writing import reporting_errors, unwritable, writing

PACKAGES = ("finishline", "torch", "lightning", "torchmetrics", "numpy", "mlperf-logging")


class RunRecord(Callback):
    """Write the record when training starts (``status: running``) and again when it ends.

    Args:
        target: Owns the run's state.
        warm_up: Has counted the FLOPs per sample.
        folder: Gives the run's directory once it exists.
        facts: Gives benchmark, division, dataset, demo, net and resumed_from.
        config: The resolved configuration, sent once to every logger.
        used: Gives what the run used: energy and cost, with the reasons where they are null.
    """

    def __init__(
        self,
        *,
        target: QualityTarget,
        warm_up: WarmUp,
        folder: Callable[[], Path],
        facts: Callable[[], Mapping[str, Any]],
        config: Mapping[str, Any],
        used: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self._target, self._warm_up, self._config = target, warm_up, config
        self._folder, self._facts, self._used = folder, facts, used
        self._started_at = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self._fixed: dict[str, Any] = {}
        self._heartbeat: Heartbeat | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        rate, unknown = _peak_learning_rate(pl_module)
        self._fixed = {
            "seed": torch.initial_seed() % 2**32,
            "devices": trainer.world_size,
            "strategy": type(trainer.strategy).__name__.removesuffix("Strategy").lower(),
            "precision": str(trainer.precision),
            "parameters": num_parameters(pl_module),
            "flops_per_sample": self._warm_up.flops_per_sample,
            "peak_learning_rate": rate,
            **unknown,
            "system": system(pl_module.device),
            "versions": versions(),
            "git_revision": git_revision(),
            "started_at": self._started_at,
            "process": {
                "pid": os.getpid(),
                "host": platform.node(),
                "started": process_start(os.getpid()),
                "pid_namespace": pid_namespace(),
            },
            "wandb_run": wandb_run.run_id(trainer),
        }
        if trainer.is_global_zero:
            self._heartbeat = Heartbeat(self._folder())
        self._write(trainer)
        for logger in trainer.loggers:
            # The optimizer's own `initial_lr` is 1: its scheduler's factor is the rate itself.
            logger.log_hyperparams({**self._config, "peak_learning_rate": rate})

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        state = self._target.state
        if trainer.state.fn == "fit" and state.evaluations and state.late is None:
            wandb_run.log_evaluation(trainer, state.evaluations[-1])

    def on_late_evaluation(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log an evaluation whose result was known only during later training."""
        wandb_run.log_evaluation(trainer, self._target.state.evaluations[-1])

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.finish(trainer)
        self._write_artifacts(trainer, pl_module)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        with reporting_errors("the record of the run is not complete"):
            self.finish(trainer)
            if isinstance(exception, StopRun):
                self._write_artifacts(trainer, pl_module)

    def _write_artifacts(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the module's artifacts now that the clock has stopped."""
        # What all ranks of a sharded network have to compute together.
        gather: Any = getattr(pl_module, "gather_artifacts", None)
        write: Any = getattr(pl_module, "write_artifacts", None)
        with _pictures_may_fail(self._folder()), preserve_state(pl_module):
            if callable(gather):
                gather()
            if callable(write) and trainer.is_global_zero:
                write(self._folder())

    def finish(self, trainer: L.Trainer) -> None:
        """Write the final record and the curve, and send the figures to the loggers; once."""
        state = self._target.state
        if not self._fixed or not trainer.is_global_zero or state.recorded:
            return
        # Ctrl-C again must not leave the record of a run that is still going on.
        with signals_as(signal.SIG_IGN):
            try:
                record = self._write(trainer)
            finally:
                if self._heartbeat is not None:
                    self._heartbeat.stop()
            state.recorded = True
        evaluations, metrics = state.evaluations, self._target.metrics
        curve = self._folder() / "curve.png"
        words = getattr(trainer.lightning_module, "metric_words", {})
        with _pictures_may_fail(curve):
            save_curve(curve, evaluations, metrics, title=run_title(record), words=words)
        wandb_run.finish(trainer, record, self._folder())

    def _write(self, trainer: L.Trainer) -> dict[str, Any]:
        record = self.record(trainer)
        if trainer.is_global_zero:
            path = self._folder() / "run.json"
            fresh = path.with_suffix(".new")
            with writing(path):
                try:
                    fresh.write_text(json.dumps(record, indent=2) + "\n")
                    os.replace(fresh, path)
                except OSError:  # a full disk: the older record is worth more than half a new one
                    with suppress(OSError):
                        fresh.unlink(missing_ok=True)
                    raise
        return record

    def record(self, trainer: L.Trainer) -> dict[str, Any]:
        """Return the content of ``run.json``, plain values in the file's order."""
        state, clock = self._target.state, self._target.state.clock
        timed = clock.seconds
        reached = state.stop_reason is StopReason.TARGET_REACHED and not state.resumed
        trained = state.samples - state.samples_before_resume
        train_seconds = timed - state.eval_seconds
        return {
            **self._facts(),
            "status": self._status(),
            "stop_reason": state.stop_reason and str(state.stop_reason),
            "seconds_to_target": timed if reached else None,
            "quality": state.quality,
            "target": self._target.metrics,
            "target_mode": self._target.mode,
            "epochs": max([trainer.current_epoch, *(e.epoch for e in state.evaluations[-1:])]),
            "samples": state.samples,
            "samples_per_second": trained / train_seconds if train_seconds > 0 else None,
            "seconds": {
                "init": clock.between("init_start", "init_stop"),
                "train": train_seconds,
                "data_wait": state.wait_seconds,  # part of train
                "eval": state.eval_seconds,
                "total": timed,
            },
            **self._used(),
            "global_batch_size": state.global_batch_size,
            "evaluations": len(state.evaluations),
            **self._fixed,
            "resumed": state.resumed,
        }

    def _status(self) -> str:
        state = self._target.state
        if state.stop_reason is None:
            return "running"
        if state.resumed:
            return "RESUMED"
        return "success" if state.stop_reason is StopReason.TARGET_REACHED else "aborted"


@contextmanager
def _pictures_may_fail(path: Path) -> Iterator[None]:
    """Report an error in a picture or table in one line: the run and its record are complete."""
    try:
        yield
    except OSError as error:
        text = str(unwritable(Path(error.filename or path), error.strerror or str(error)))
        print(f"Warning: {text}", file=sys.stderr, flush=True)
    except Exception as error:
        reason = (str(error).splitlines() or ["no message"])[0]
        folder = path.parent if path.suffix else path
        text = f"a picture in {folder} is missing ({type(error).__name__}: {reason})"
        print(f"Warning: {text}", file=sys.stderr, flush=True)


def num_parameters(pl_module: L.LightningModule) -> int:
    """Count a module's parameters, over all ranks."""
    # A module whose ranks hold only a share of the parameters counts all of them itself.
    count: Any = getattr(pl_module, "num_parameters", None)
    if callable(count):
        return int(count())
    net: Any = getattr(pl_module, "net", pl_module)
    return sum(p.numel() for p in net.parameters())


def _peak_learning_rate(pl_module: L.LightningModule) -> tuple[float | None, dict[str, Any]]:
    """Return the highest rate of the schedule, or ``None`` and the reason, for the record."""
    rate: Any = getattr(pl_module, "peak_learning_rate", None)
    if rate is not None:
        return float(rate), {}
    reason = f"{type(pl_module).__name__} does not define peak_learning_rate"
    return None, {"not_known": {"peak_learning_rate": reason}}


def system(device: torch.device) -> dict[str, Any]:
    """Describe the machine: processor, memory, accelerator (sizes in GiB), operating system."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    facts: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(pages / 2**30, 1),
        "os": platform.platform(),
        "accelerator": None,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["accelerator"] = properties.name
        facts["accelerator_memory_gib"] = round(properties.total_memory / 2**30, 1)
        facts["accelerators_in_machine"] = torch.cuda.device_count()
    return facts


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.partition(":")[2].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a run's numbers."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def git_revision() -> str | None:
    """Return the commit of the code, such as ``1a2b3c4-dirty``; ``None`` outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
