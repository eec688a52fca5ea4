"""Embedding lookup and dot interaction as one step on CPUs, without a tensor of all vectors.

The vectors of a batch (28 MB at 2048 rows and width 128) fit into no cache, so building, joining
and multiplying them one after the other is bound by memory. Here the vectors of a sample go through
all of it while they lie in the cache (forward; backward those of a block of samples, as the matrix
products of one would be too small), and gradients are summed per table row as they arise.

Letters: B rows of the batch, T tables, F = T + 1 features, D width, R table rows, P pairs,
X = D + P, K rows of a block, U different table rows.
"""

from typing import Any

import torch
from torch import Tensor

from modules.dlrm.table_rows import checked_rows, collect_rows, distinct, interact_rows, load_block

BLOCK_BYTES = 1 << 18  # of vectors: an eighth of a usual second-level cache, measured as the best


def look_up_and_interact(dense_BD: Tensor, weight_RD: Tensor, rows_BT: Tensor) -> Tensor:
    """``[dense, dot products of all pairs of dense and looked-up vectors]`` of each row.

    Equal to ``dot_interaction`` of the joined vectors behind ``dense_BD``; the weight's gradient is
    sparse and names each row once.

    Args:
        dense_BD: On the CPU; the result is of its type, products are taken in the table's.
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
        ctx.given_type, rows_BT = dense_BD.dtype, checked_rows(rows_BT, len(weight_RD))
        dense_BD = dense_BD.to(weight_RD.dtype).contiguous()
        ctx.save_for_backward(dense_BD, weight_RD, rows_BT)
        (num_rows, width), num_features = dense_BD.shape, rows_BT.shape[1] + 1
        num_pairs = num_features * (num_features - 1) // 2
        out_BX = dense_BD.new_empty(num_rows, width + num_pairs)
        interact_rows(dense_BD, weight_RD, rows_BT, out_BX)
        # Counters of operations see torch's only: this stands for the products, and computes none.
        shape_BFD = torch.empty(num_rows, num_features, width, device="meta")
        torch.bmm(shape_BFD, shape_BFD.transpose(1, 2))
        return out_BX.to(ctx.given_type)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        dense_BD, weight_RD, rows_BT = ctx.saved_tensors
        (num_rows, width), num_features = dense_BD.shape, rows_BT.shape[1] + 1
        grad_BX = grads[0].to(weight_RD.dtype).contiguous()
        grad_dense_BD = grad_BX[:, :width].clone()
        rows_U, place_N = distinct(rows_BT.flatten())
        sums_UD = weight_RD.new_empty(len(rows_U), width)
        most = max(1, BLOCK_BYTES // (num_features * width * weight_RD.itemsize))
        vectors_KFD = weight_RD.new_empty(min(most, num_rows), num_features, width)
        square_KFF = weight_RD.new_empty(len(vectors_KFD), num_features, num_features)
        grad_KFD = torch.empty_like(vectors_KFD)
        dense, weight = dense_BD.numpy(), weight_RD.detach().numpy()
        rows, grad = rows_BT.numpy(), grad_BX.numpy()
        sums, grad_dense = sums_UD.numpy(), grad_dense_BD.numpy()
        place_BT, seen = place_N.view_as(rows_BT).numpy(), 0
        for start in range(0, num_rows, most):
            count = min(most, num_rows - start)
            if count < len(vectors_KFD):  # the last block
                vectors_KFD, square_KFF, grad_KFD = (
                    x[:count] for x in (vectors_KFD, square_KFF, grad_KFD)
                )
            vectors, square = vectors_KFD.numpy(), square_KFF.numpy()
            load_block(start, dense, weight, rows, grad, vectors, square)
            torch.bmm(square_KFF, vectors_KFD, out=grad_KFD)
            values = grad_KFD.numpy()
            seen = collect_rows(start, seen, place_BT, values, sums, grad_dense)
        with torch.sparse.check_sparse_tensor_invariants(False):  # said so, torch does not warn
            grad_RD = torch.sparse_coo_tensor(rows_U[None], sums_UD, weight_RD.shape)
        return grad_dense_BD.to(ctx.given_type), grad_RD, None
