"""Out of memory: one line with the flags that need less of it and leave the global batch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Trainer

# What torch raises apart from its own error class: on the CPU and on a Mac's GPU.
OUT_OF_MEMORY = re.compile(r"can't allocate memory|out of memory", re.IGNORECASE)
EVALUATION_FLAGS = (
    "data.evaluation_batch_size",
    "data.validation_batch_size",
    "model.validation_batch_size",
)


@contextmanager
def explained_memory_errors(
    config: Any, model: torch.nn.Module, trainer: Trainer
) -> Iterator[None]:
    """Turn an error for lack of memory into a ``ValueError`` of one line with the way out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not isinstance(error, MemoryError) and not OUT_OF_MEMORY.search(str(error)):
            raise
        device = str(trainer.strategy.root_device).upper().replace("CPU", "this machine")
        # Lightning has cleared its own state by now; an evaluation leaves the evaluation mode.
        flags = None if model.training else _evaluation_flag(config)
        flags = flags or _training_flags(config, trainer.accumulate_grad_batches)
        when = "in training" if model.training else "in evaluation"
        raise ValueError(f"out of memory on {device} {when}; {flags}") from error


def _evaluation_flag(config: Any) -> str | None:
    """Return the flag that evaluates fewer samples at once, which changes no result."""
    for flag in EVALUATION_FLAGS:
        if (size := config.get(flag)) and size > 1:
            return f"run the same command with --{flag} {size // 2}"
    return None


def _training_flags(config: Any, accumulation: int) -> str:
    """Return the two flags that keep the global batch."""
    size = int(config.data.batch_size)
    parts = next((n for n in range(2, size + 1) if size % n == 0), None)
    if parts is None:
        return (
            "--data.batch_size is 1 already; use --trainer.precision bf16-mixed or a device with "
            "more memory"
        )
    return (
        f"run the same command with --data.batch_size {size // parts} "
        f"--trainer.accumulate_grad_batches {accumulation * parts}: the global batch stays"
    )
