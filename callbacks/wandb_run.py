"""What W&B gets beside Lightning's metrics: evaluations on the clock, the record, artifacts.

W&B is recognised by its run's ``summary``, so that nothing of it is imported without being used.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L

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
    """The trainer's W&B loggers with their runs.

    Args:
        trainer: The trainer; other ranks than 0 have none.

    Yields:
        Logger and W&B run.
    """
    for logger in trainer.loggers if trainer.is_global_zero else ():
        run: Any = getattr(logger, "experiment", None)
        if hasattr(run, "summary"):
            yield logger, run


def run_id(trainer: L.Trainer) -> str | None:
    """W&B's identifier of this run, so that a resumed run can go on in it.

    Args:
        trainer: The trainer.

    Returns:
        The identifier; ``None`` without W&B.
    """
    return next((str(run.id) for _, run in wandb_loggers(trainer)), None)


def log_evaluation(trainer: L.Trainer, evaluation: Evaluation) -> None:
    """Log an evaluation in one row with the clock, for charts over timed seconds or samples.

    Args:
        trainer: The trainer.
        evaluation: What was measured and when.
    """
    for logger, _ in wandb_loggers(trainer):
        row = {f"quality/{name}": value for name, value in evaluation.quality.items()}
        row |= {"clock/seconds": evaluation.seconds, "clock/samples": evaluation.samples}
        logger.log_metrics(row, step=evaluation.step)


def finish(trainer: L.Trainer, record: Mapping[str, Any], folder: Path) -> None:
    """Put the record's figures into the summary and the run's files into artifacts.

    A checkpoint goes along only if the logger was made with ``log_model``.

    Args:
        trainer: The trainer, after the clock stopped.
        record: The run's record.
        folder: The run's folder.
    """
    for logger, run in wandb_loggers(trainer):
        run.summary.update(summary(record))
        files = ARTIFACTS | (CHECKPOINT if getattr(logger, "_log_model", False) else {})
        for name, (end, kind) in files.items():
            if (folder / name).is_file():
                run.log_artifact(folder / name, name=f"{record['benchmark']}-{end}", type=kind)


def begun() -> Any:
    """The W&B run that this process is in, such as a notebook's own: Lightning logs into it.

    Returns:
        W&B's run; ``None`` without one.
    """
    return getattr(sys.modules.get("wandb"), "run", None)


def close(trainer: L.Trainer, status: int, *, spared: Any = None) -> None:
    """End the W&B runs, whose client then prints what it has to say: before the verdict, not after.

    What goes wrong in sending is told and no more: the training has ended, whatever W&B got of it.

    Args:
        trainer: The trainer, after its end; its loggers have begun their runs.
        status: The command's exit status, by which W&B tells finished runs from failed ones.
        spared: A run that somebody else began and will end.
    """
    for _, run in wandb_loggers(trainer):
        if run is spared:
            continue
        try:
            run.finish(exit_code=status)
        except (Exception, KeyboardInterrupt) as error:  # sending may take long, or fail in any way
            why = "interrupted" if isinstance(error, KeyboardInterrupt) else error
            print(f"W&B may lack the end of this run: {why}", file=sys.stderr)


def summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of the record that a table of runs should show.

    Args:
        record: The run's record.

    Returns:
        Key -> plain value.
    """
    chosen = {key: record[key] for key in SUMMARY if key in record}
    chosen["time_to_target_seconds"] = record["seconds_to_target"]
    return chosen | {f"quality/{key}": value for key, value in record["quality"].items()}
