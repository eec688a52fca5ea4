"""Dot products of every pair of feature vectors, without self and duplicate pairs.

Letters: B rows, F features, D width, P = F (F - 1) / 2 pairs.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def interact(dense_BD: Tensor, vectors_BTD: Tensor) -> Tensor:
    """Concatenate ``dense_BD``, the first feature, with the dot products of all pairs."""
    features_BFD = torch.cat([dense_BD[:, None], vectors_BTD.to(dense_BD.dtype)], 1)
    return torch.cat([dense_BD, dot_interaction(features_BFD)], 1)


def dot_interaction(features_BFD: Tensor) -> Tensor:
    """Compute dot products of all pairs of features i > j, row by row of the lower triangle.

    Source:
        facebookresearch/dlrm @ 6d75c84d, dlrm_s_pytorch.py, interact_features. Differs: no index
        tensor per call and half the products in the backward pass.
    """
    device = features_BFD.device.type
    if torch.is_autocast_enabled(device):
        features_BFD = features_BFD.to(torch.get_autocast_dtype(device))
    return _DotInteraction.apply(features_BFD)


@cache
def pair_positions(num_features: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return each pair's flat position in the square of products, and each position's pair."""
    i, j = torch.tril_indices(num_features, num_features, -1, device=device)
    lower_P = i * num_features + j
    # The diagonal belongs to no pair: it takes the extra column of zeros behind the last one.
    pair_FF = torch.full((num_features * num_features,), len(lower_P), device=device)
    pair_FF[lower_P] = pair_FF[j * num_features + i] = torch.arange(len(lower_P), device=device)
    return lower_P, pair_FF


class _DotInteraction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features_BFD: Tensor) -> Tensor:
        ctx.save_for_backward(features_BFD)
        lower_P, _ = pair_positions(features_BFD.shape[1], features_BFD.device)
        products_BFF = torch.bmm(features_BFD, features_BFD.transpose(1, 2))
        return products_BFF.flatten(1).index_select(1, lower_P)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (grad_BP,) = grads
        (features_BFD,) = ctx.saved_tensors
        num_rows, num_features, _ = features_BFD.shape
        _, pair_FF = pair_positions(num_features, features_BFD.device)
        # One product suffices, as the gradient of Z = T T^T is (G + G^T) T.
        # Copying into place column by column would take three times as long as this gather.
        symmetric = F.pad(grad_BP, (0, 1)).index_select(1, pair_FF)
        return torch.bmm(symmetric.view(num_rows, num_features, num_features), features_BFD)
