"""Embedding lookup and dot interaction as one step on CPUs, without a tensor of all vectors.

The vectors of a batch (28 MB at 2048 rows and width 128) fit into no cache, so building, joining
and multiplying them one after the other is bound by memory. Here a block of rows goes through all
of it while it lies in the cache, and gradients are summed per table row as they arise.

Letters: B rows of the batch, T tables, F = T + 1 features, D width, R table rows, P pairs,
X = D + P, K rows of a block, U different table rows.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from modules.ops.interaction import pair_positions
from modules.ops.table_rows import collect_rows, distinct

BLOCK_BYTES = 1 << 20  # of vectors; leaves half of a usual second-level cache for the rest


def look_up_and_interact(dense_BD: Tensor, weight_RD: Tensor, rows_BT: Tensor) -> Tensor:
    """``[dense, dot products of all pairs of dense and looked-up vectors]`` of each row.

    Equal to ``dot_interaction`` of the joined vectors behind ``dense_BD``; the weight's gradient is
    sparse and names each row once.

    Args:
        dense_BD: On the CPU; products are taken in its type (bfloat16 under autocast).
        weight_RD: The table, float32 or float64, contiguous.
        rows_BT: int64 row of each lookup.

    Returns:
        interacted_BX: Pairs in the order of ``dot_interaction``.

    Raises:
        IndexError: If a row lies outside the table.
    """
    return _LookUpAndInteract.apply(dense_BD, weight_RD, rows_BT)


class _LookUpAndInteract(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dense_BD: Tensor, weight_RD: Tensor, rows_BT: Tensor) -> Tensor:
        ctx.save_for_backward(dense_BD, weight_RD, rows_BT)
        width, num_features = dense_BD.shape[1], rows_BT.shape[1] + 1
        lower_P, _ = pair_positions(num_features, dense_BD.device)
        out_BX = dense_BD.new_empty(len(dense_BD), width + len(lower_P))
        out_BX[:, :width] = dense_BD
        for block, vectors_KFD, square_KFF in _blocks(dense_BD, weight_RD, rows_BT):
            torch.bmm(vectors_KFD, vectors_KFD.transpose(1, 2), out=square_KFF)
            out_BX[block, width:] = square_KFF.flatten(1).index_select(1, lower_P)
        return out_BX

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad_BX,) = grads
        dense_BD, weight_RD, rows_BT = ctx.saved_tensors
        width, num_features = dense_BD.shape[1], rows_BT.shape[1] + 1
        _, pair_FF = pair_positions(num_features, dense_BD.device)
        column_FF = (pair_FF + width).clamp(max=grad_BX.shape[1] - 1)
        rows_U, place_N = distinct(rows_BT.flatten())
        place_BT = place_N.view_as(rows_BT)
        sums_UD, seen = weight_RD.new_empty(len(rows_U), width), 0
        grad_dense_BD, space_KFD = torch.empty_like(dense_BD), dense_BD.new_empty(0)
        for block, vectors_KFD, square_KFF in _blocks(dense_BD, weight_RD, rows_BT):
            torch.index_select(grad_BX[block], 1, column_FF, out=square_KFF.flatten(1))
            square_KFF.diagonal(dim1=1, dim2=2).zero_()  # belongs to no pair
            if not len(space_KFD):
                space_KFD = torch.empty_like(vectors_KFD)
            grad_KFD = torch.bmm(square_KFF, vectors_KFD, out=space_KFD[: len(vectors_KFD)])
            torch.add(grad_KFD[:, 0], grad_BX[block, :width], out=grad_dense_BD[block])
            values_KTD = grad_KFD[:, 1:].to(weight_RD.dtype)
            seen = collect_rows(sums_UD, place_BT[block], values_KTD, seen)
        with torch.sparse.check_sparse_tensor_invariants(False):  # said so, torch does not warn
            grad_RD = torch.sparse_coo_tensor(rows_U[None], sums_UD, weight_RD.shape)
        return grad_dense_BD, grad_RD, None


def _blocks(
    dense_BD: Tensor, weight_RD: Tensor, rows_BT: Tensor
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Blocks of the batch, their joined vectors and space for a square of them, in one memory."""
    (num_rows, width), num_features = dense_BD.shape, rows_BT.shape[1] + 1
    most = max(1, BLOCK_BYTES // (num_features * width * dense_BD.itemsize))
    most = min(most, num_rows)
    vectors_KFD = dense_BD.new_empty(most, num_features, width)
    square_KFF = dense_BD.new_empty(most, num_features, num_features)
    same_type = weight_RD.dtype == dense_BD.dtype
    found_KFD = vectors_KFD if same_type else torch.empty_like(vectors_KFD, dtype=weight_RD.dtype)
    # The dense vector's place is looked up too, for nothing: one gather fills the whole block.
    rows_BF = F.pad(rows_BT, (1, 0))
    for start in range(0, num_rows, most):
        block = slice(start, min(start + most, num_rows))
        part_KFD, found = (x[: block.stop - start] for x in (vectors_KFD, found_KFD))
        torch.index_select(weight_RD, 0, rows_BF[block].flatten(), out=found.flatten(0, 1))
        if not same_type:
            part_KFD.copy_(found)
        part_KFD[:, 0] = dense_BD[block]
        yield block, part_KFD, square_KFF[: block.stop - start]
