"""Samples of a step and of an epoch, as given by the data module."""

from __future__ import annotations

from typing import Any

import lightning as L


def global_batch_size(trainer: L.Trainer) -> int:
    """Return the samples of one optimizer step over all devices and accumulated batches."""
    datamodule: Any = getattr(trainer, "datamodule", None)
    per_device = int(getattr(datamodule, "batch_size", 1))
    return per_device * trainer.world_size * trainer.accumulate_grad_batches


def samples_per_epoch(trainer: L.Trainer) -> int:
    """Return the padded training samples of one epoch; 1 where there is no such figure."""
    datamodule: Any = getattr(trainer, "datamodule", None)
    return int(getattr(datamodule, "samples_per_epoch", 1))
