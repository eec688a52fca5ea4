"""How many samples a step and an epoch take, asked of the data module in one place."""

from __future__ import annotations

from typing import Any

import lightning as L


def global_batch_size(trainer: L.Trainer) -> int:
    """Samples of one optimizer step over all devices and accumulated batches.

    Args:
        trainer: The trainer, with its data module.

    Returns:
        Samples, >= 1.
    """
    datamodule: Any = getattr(trainer, "datamodule", None)
    per_device = int(getattr(datamodule, "batch_size", 1))
    return per_device * trainer.world_size * trainer.accumulate_grad_batches


def samples_per_epoch(trainer: L.Trainer) -> int:
    """Padded training samples of one epoch.

    Args:
        trainer: The trainer, with its data module.

    Returns:
        Samples; 1 where the data module does not tell.
    """
    datamodule: Any = getattr(trainer, "datamodule", None)
    return int(getattr(datamodule, "samples_per_epoch", 1))
