"""Norms of many tensors in a few kernels, without waiting for the device. Letters: N tensors."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def global_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Compute the L2 norm of all numbers of several tensors together, a 0-dim tensor."""
    return torch.linalg.vector_norm(_norms(list(tensors)))


def trust_ratios(
    weights: list[Tensor],
    updates: list[Tensor],
    ratio: Callable[[Tensor, Tensor], Tensor] = torch.div,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Compute the factor by which LAMB and LARS rescale the step of each tensor.

    Args:
        weights: N tensors of any shapes.
        updates: What each is compared with, same shapes.
        ratio: Formula of the factor; it is given the norms of the weights and of the updates.
        dtype: Type of the norms; by default the tensors' own.

    Returns:
        ratio_N: On the tensors' device; 1 where either norm is 0.
    """
    weight_N, update_N = _norms(weights, dtype), _norms(updates, dtype)
    both_N = (weight_N > 0) & (update_N > 0)
    return torch.where(both_N, ratio(weight_N, update_N), 1.0)


def _norms(tensors: list[Tensor], dtype: torch.dtype | None = None) -> Tensor:
    return torch.stack(list(torch._foreach_norm(tensors, 2, dtype=dtype)))
