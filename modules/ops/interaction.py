"""Dot products of every pair of feature vectors, without self and duplicate pairs.

Letters: B rows, F features, D width, P = F (F - 1) / 2 pairs.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor


def dot_interaction(features_BFD: Tensor) -> Tensor:
    """Inner products of all pairs of features i > j, row by row of the lower triangle.

    The backward pass is one matrix product, as the gradient of Z = T T^T is (G + G^T) T.

    Args:
        features_BFD: Floating point.

    Returns:
        pairs_BP: Pairs (1, 0), (2, 0), (2, 1), (3, 0) ...; under autocast in its type.

    Source:
        facebookresearch/dlrm @ 6d75c84d, dlrm_s_pytorch.py, interact_features. Differs: no index
        tensor per call and half the products in the backward pass.
    """
    device = features_BFD.device.type
    if torch.is_autocast_enabled(device):
        features_BFD = features_BFD.to(torch.get_autocast_dtype(device))
    return _DotInteraction.apply(features_BFD)


@cache
def _lower_triangle(num_features: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Flat positions of the pairs below the diagonal and of their mirror images."""
    i, j = torch.tril_indices(num_features, num_features, -1, device=device)
    return i * num_features + j, j * num_features + i


class _DotInteraction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features_BFD: Tensor) -> Tensor:
        ctx.save_for_backward(features_BFD)
        lower_P, _ = _lower_triangle(features_BFD.shape[1], features_BFD.device)
        products_BFF = torch.bmm(features_BFD, features_BFD.transpose(1, 2))
        return products_BFF.flatten(1).index_select(1, lower_P)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (grad_BP,) = grads
        (features_BFD,) = ctx.saved_tensors
        num_rows, num_features, _ = features_BFD.shape
        lower_P, upper_P = _lower_triangle(num_features, features_BFD.device)
        symmetric = grad_BP.new_zeros(num_rows, num_features * num_features)
        symmetric.index_copy_(1, lower_P, grad_BP).index_copy_(1, upper_P, grad_BP)
        return torch.bmm(symmetric.view(num_rows, num_features, num_features), features_BFD)
