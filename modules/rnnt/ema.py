"""Exponential moving average of a network's weights."""

from copy import deepcopy
from typing import TypeVar

import torch
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)


def averaged_copy(net: Net) -> Net:
    """A copy that holds the average: same weights now, no gradients, evaluation mode.

    Args:
        net: The network that is trained.

    Returns:
        The copy; give it to :func:`update_average` after every optimizer step.
    """
    return deepcopy(net).requires_grad_(False).eval()


@torch.no_grad()
def update_average(average: nn.Module, net: nn.Module, *, factor: float) -> None:
    """Move the average towards the present weights: ``factor * average + (1 - factor) * weight``.

    Every entry of the state takes part; integers, which have no average, are copied.

    Args:
        average: From :func:`averaged_copy`.
        net: The network after an optimizer step.
        factor: Share of the average that stays, in [0, 1).
    """
    old: list[Tensor] = []
    new: list[Tensor] = []
    for mine, theirs in zip(_entries(average), _entries(net), strict=True):
        if mine.is_floating_point():
            old.append(mine)
            new.append(theirs)
        else:
            mine.copy_(theirs)
    torch._foreach_lerp_(old, new, 1.0 - factor)


def _entries(net: nn.Module) -> list[Tensor]:
    """All weights and buffers, in a fixed order."""
    return [tensor.detach() for tensor in (*net.parameters(), *net.buffers())]
