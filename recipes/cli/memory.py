"""Too little memory: refused before anything is allocated, or explained when it has run out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.nn.parameter import is_lazy

from datamodules.common.memory import machine_bytes
from recipes.cli.doctor_memory import device_bytes
from recipes.cli.fsdp2 import FSDP2Strategy
from recipes.cli.training_memory import TrainingMemory
from recipes.cli.usage import UsageError

# What torch raises apart from its own error class: on the CPU and on a Mac's GPU.
OUT_OF_MEMORY = re.compile(r"can't allocate memory|out of memory", re.IGNORECASE)
EVALUATION_FLAGS = (
    "data.evaluation_batch_size",
    "data.validation_batch_size",
    "model.validation_batch_size",
)


def check_training_memory(model: Any, datamodule: Any, trainer: Trainer) -> None:
    """Refuse a run whose weights, gradients and what else is known cannot fit on a device.

    Args:
        model: The module. One whose network is large and built later has
            ``memory_facts(datamodule)``: fields of ``TrainingMemory``, counted without weights.
        datamodule: The data module.
        trainer: Not yet started.

    Raises:
        UsageError: If they do not fit; one line with the arithmetic.
    """
    kind, memory = trainer.strategy.root_device.type, _training_memory(model, datamodule)
    sizes: Sequence[float] = device_bytes() if kind == "cuda" else []
    if kind == "cpu" and "net" not in model._modules:  # else its weights are allocated by now
        sizes = [machine_bytes() / trainer.num_devices]
    if memory is None or not sizes:
        return
    sharded = isinstance(trainer.strategy, FSDP2Strategy)
    if trainer.precision in ("bf16-mixed", "16-mixed"):
        memory = replace(memory, copied=2 * memory.parameters)
    name = "GPU" if kind == "cuda" else "process"
    line = memory.shortage(min(sizes), trainer.world_size, sharded=sharded, kind=name)
    if line:
        raise UsageError(f"memory: {line}")


def _training_memory(model: Any, datamodule: Any) -> TrainingMemory | None:
    facts = getattr(model, "memory_facts", None)
    if callable(facts):
        with suppress(ValueError, OSError, UsageError):  # data that decide on it are not prepared
            return TrainingMemory(**facts(datamodule))
        return None
    shards_itself = type(model).configure_model is not LightningModule.configure_model
    if "net" not in model._modules or shards_itself:
        return None
    # Of an unknown optimizer and of activations nothing is assumed.
    trained = [p for p in model.net.parameters() if p.requires_grad and not is_lazy(p)]
    return TrainingMemory(parameters=sum(p.numel() for p in trained), moments=0)


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
