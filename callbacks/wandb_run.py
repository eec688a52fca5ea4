"""Send W&B what Lightning's metrics lack: the name, evaluations, the record, artifacts."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import WandbLogger

from callbacks.lightning_private import logs_checkpoints, wandb_settings
from callbacks.quality_target import Evaluation

# File of the run folder -> (end of the artifact's name, its type).
ARTIFACTS = {
    "result.txt": ("log", "mlperf-log"),
    "run.json": ("record", "record"),
    "config.yaml": ("config", "config"),
    "curve.png": ("curve", "curve"),
}
CHECKPOINT = {"checkpoints/last.ckpt": ("checkpoint", "model")}
SUMMARY = ("division", "stop_reason", "status", "samples_per_second", "parameters", "demo")


def wandb_loggers(trainer: L.Trainer) -> Iterator[tuple[Any, Any]]:
    """Yield the trainer's W&B loggers with their runs; only rank 0 has any."""
    for logger in trainer.loggers if trainer.is_global_zero else ():
        if isinstance(logger, WandbLogger):
            yield logger, logger.experiment


def run_id(trainer: L.Trainer) -> str | None:
    """Return W&B's identifier of this run, so that a resumed run can continue it."""
    return next((str(run.id) for _, run in wandb_loggers(trainer)), None)


def name_runs(trainer: L.Trainer, folder: Path, *, keep: Any = None) -> None:
    """Give the W&B runs the run directory's name, unless the user named or started them."""
    for logger, run in wandb_loggers(trainer):
        # W&B starts before the directory exists, and makes up a name.
        if run is not keep and wandb_settings(logger).get("name") is None:
            run.name = folder.name


def log_evaluation(trainer: L.Trainer, evaluation: Evaluation) -> None:
    """Log an evaluation and the clock in one row, for charts over timed seconds or samples."""
    for logger, _ in wandb_loggers(trainer):
        row = {f"quality/{name}": value for name, value in evaluation.quality.items()}
        row |= {"clock/seconds": evaluation.seconds, "clock/samples": evaluation.samples}
        logger.log_metrics(row, step=evaluation.step)


def finish(trainer: L.Trainer, record: Mapping[str, Any], folder: Path) -> None:
    """Send the record's figures as the summary and the run's files as artifacts."""
    for logger, run in wandb_loggers(trainer):
        run.summary.update(summary(record))
        files = ARTIFACTS | (CHECKPOINT if logs_checkpoints(logger) else {})
        for name, (end, kind) in files.items():
            if (folder / name).exists():
                run.log_artifact(folder / name, name=f"{record['benchmark']}-{end}", type=kind)


def current_run() -> Any:
    """Return the W&B run of this process, such as a notebook's own: Lightning logs into it."""
    return getattr(sys.modules.get("wandb"), "run", None)


def close(trainer: L.Trainer, status: int, *, keep: Any = None) -> None:
    """End the W&B runs with the command's exit status, but for a run that the user started."""
    # Before the verdict, as W&B prints a summary here. An error while sending is only reported: the
    # training has ended.
    for _, run in wandb_loggers(trainer):
        if run is keep:
            continue
        try:
            run.finish(exit_code=status)
        except (Exception, KeyboardInterrupt) as error:  # sending may take long, or fail in any way
            why = "interrupted" if isinstance(error, KeyboardInterrupt) else error
            print(f"W&B may be missing the end of this run: {why}", file=sys.stderr)


def summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record's figures for a table of runs."""
    chosen = {key: record[key] for key in SUMMARY if key in record}
    chosen["time_to_target_seconds"] = record["seconds_to_target"]
    return chosen | {f"quality/{key}": value for key, value in record["quality"].items()}
