"""Disclose a run's precision, parallelism and settings in its log, as from round v6.1 on."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

# The log's words for the trainer's: "bf16-mixed" begins with "bf16".
_PRECISIONS = {"bf16": "bfloat16", "16": "fp16", "64": "fp64", "transformer-engine": "fp8"}
SETTINGS = "config.yaml"  # of the run's directory


def disclosure(trainer: L.Trainer) -> dict[str, Any]:
    """Return the keys that training_6.1.0 demands of every benchmark.

    Args:
        trainer: The trainer, set up.

    Returns:
        Key -> value. No strategy here splits matrices, layers, sequences or experts over devices.

    Source:
        mlperf-logging 4.1.68, compliance_checker/training_6.1.0/common.yaml.
    """
    precision = compute_precision(trainer)
    return {
        "lowest_numerical_precision_in_linear": precision,
        "lowest_numerical_precision_in_attn": precision,
        "lowest_numerical_precision_in_comm": _sent_precision(trainer, precision),
        "tensor_parallelism": 1,
        "pipeline_parallelism": 1,
        "context_parallelism": 1,
        "expert_parallelism": 1,
        "micro_batch_size": getattr(trainer.datamodule, "batch_size", 1),  # type: ignore[attr-defined]
        "config_filename": SETTINGS,
    }


def _sent_precision(trainer: L.Trainer, computed: str) -> str:
    """Return the narrowest type that ranks send: of gradients, and of weights that they gather."""
    sharded = isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy)
    narrow = str(trainer.precision).endswith("-true") or (sharded and trainer.world_size > 1)
    return computed if narrow and computed != "tf32" else "fp32"


def compute_precision(trainer: L.Trainer) -> str:
    """Return the type in which matrices are multiplied, in the log's words."""
    name = str(trainer.precision)
    for start, word in _PRECISIONS.items():
        if name.startswith(start):
            return word
    on_gpu = trainer.strategy.root_device.type == "cuda"
    return "tf32" if on_gpu and torch.get_float32_matmul_precision() != "highest" else "fp32"
