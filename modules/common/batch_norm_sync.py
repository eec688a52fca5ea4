"""Averages batch norms' running statistics over ranks, each of which trains on its own batches."""

import torch
import torch.distributed as dist
from torch import nn


def average_running_statistics(net: nn.Module) -> None:
    """Replace running mean and variance of every batch norm by their means over all ranks.

    Call it on every rank before an evaluation; without ``torch.distributed`` it does nothing.
    Training may continue from the means: a moving average is linear, so later means are the same
    as if each rank had kept its own.

    Args:
        net: The network; its buffers are changed in place.

    Source:
        mlcommons/training, image_classification/tensorflow2 (v1.0): Keras' batch norm aggregates
        its variables by mean over replicas whenever they are read.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    buffers = [
        buffer
        for module in net.modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)
        for buffer in (module.running_mean, module.running_var)
        if buffer is not None
    ]
    if not buffers:
        return
    flat = torch.cat([buffer.flatten() for buffer in buffers])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = flat.split([buffer.numel() for buffer in buffers])
    for buffer, part in zip(buffers, parts, strict=True):
        buffer.copy_(part.view_as(buffer))
