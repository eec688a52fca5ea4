"""Embedding tables that are read in bags: the rows of a bag's ids are summed.

On several ranks the owners of the rows sum first, so that one vector per bag travels and not one
per id. Letters: B rows of a batch, T tables, L ids of a row (all its bags), D width, N ids (B x L),
G bags (B x T), M distinct table rows, W ranks, C bags of all ranks.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from modules.recommendation.fused_embedding import FusedEmbedding, exchange


class PooledEmbedding(FusedEmbedding):
    """Fused tables with one bag of ids per table and sample; a bag's size depends on the table.

    The weight's gradient is sparse and has each touched row once, in ascending order. An id that
    occurs twice in a bag counts twice.

    Source:
        mlcommons/training @ aa344c7, recommendation_v2/torchrec_dlrm (EmbeddingBagCollection).
        Differs: one weight, sharded by row.
    """

    position_offsets: Tensor
    table_of_position: Tensor

    def __init__(self, table_sizes: Sequence[int], bag_sizes: Sequence[int], width: int) -> None:
        """Allocate this rank's rows and fill them with U(-1/sqrt(n), 1/sqrt(n)), n a table's rows.

        Args:
            table_sizes: Rows of each table.
            bag_sizes: Ids per sample of each table, each at least 1.
            width: Elements of a row.

        Raises:
            ValueError: If there is not one bag size per table, or if weight and Adagrad's sums do
                not fit in memory.
        """
        if len(bag_sizes) != len(table_sizes) or min(bag_sizes) < 1:
            raise ValueError(
                f"bag_sizes must have a number of at least 1 for each of the {len(table_sizes)} "
                f"tables, got {list(bag_sizes)}"
            )
        super().__init__(table_sizes, width, copies=2)
        self.bag_sizes = tuple(bag_sizes)
        tables = torch.tensor([t for t, size in enumerate(bag_sizes) for _ in range(size)])
        self.register_buffer("table_of_position", tables, persistent=False)
        self.register_buffer("position_offsets", self.offsets[tables], persistent=False)

    # The number of distinct rows differs in each step: torch.compile would recompile each time.
    @torch.compiler.disable
    def forward(self, ids_BL: Tensor) -> Tensor:
        """Sum the rows of each bag.

        Args:
            ids_BL: All bags of a sample side by side, int32 or int64; each id is in
                ``[0, table_sizes[t])``.

        Returns:
            vectors_BTD: float32.
        """
        num_samples, num_tables = len(ids_BL), len(self.bag_sizes)
        rows_N = (ids_BL + self.position_offsets).flatten()
        samples = torch.arange(num_samples, device=rows_N.device)[:, None]
        bags_N = (samples * num_tables + self.table_of_position).flatten()
        num_bags = num_samples * num_tables
        sums = _SharedBagSums if self.world_size > 1 else _BagSums
        vectors_GD = sums.apply(self.weight, rows_N, bags_N, num_bags)
        return vectors_GD.view(num_samples, num_tables, self.width)


def bag_sums(weight_RD: Tensor, rows_N: Tensor, lengths_G: Tensor) -> Tensor:
    """Sum consecutive rows of a weight: (G, D); a bag may be empty."""
    starts_G = lengths_G.cumsum(0) - lengths_G
    return F.embedding_bag(rows_N, weight_RD, starts_G, mode="sum")


def row_gradient(grad_GD: Tensor, rows_N: Tensor, bags_N: Tensor, num_rows: int) -> Tensor:
    """Sum each table row's gradients over the bags that it is in: a sparse (R, D), rows ascending.

    That is a sum of bags again, of the gradients of a row's bags: nothing of N x D is written.
    """
    sorted_N, order_N = rows_N.sort(stable=True)
    touched_M, counts_M = sorted_N.unique_consecutive(return_counts=True)
    values_MD = bag_sums(grad_GD, bags_N[order_N], counts_M)
    with torch.sparse.check_sparse_tensor_invariants(False):  # explicit, so torch does not warn
        return torch.sparse_coo_tensor(
            touched_M[None], values_MD, (num_rows, grad_GD.shape[1]), is_coalesced=True
        )


class _BagSums(torch.autograd.Function):
    """Sums of bags on one rank."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows_N: Tensor, bags_N: Tensor, num_bags: int) -> Tensor:
        ctx.save_for_backward(rows_N, bags_N)
        ctx.num_rows = len(weight)
        return bag_sums(weight, rows_N, torch.bincount(bags_N, minlength=num_bags))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        rows_N, bags_N = ctx.saved_tensors
        gradient = row_gradient(grads[0].contiguous(), rows_N, bags_N, ctx.num_rows)
        return gradient, None, None, None


class _SharedBagSums(torch.autograd.Function):
    """The same over ranks, row r being on rank r % W; ranks may have different numbers of bags."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows_N: Tensor, bags_N: Tensor, num_bags: int) -> Tensor:
        world = dist.get_world_size()
        mine = rows_N.new_tensor([num_bags])
        everyone = mine.new_empty(world)
        dist.all_gather_into_tensor(everyone, mine)
        bags_of = everyone.tolist()  # bags of each rank
        owner_N = rows_N % world
        order_N = owner_N.argsort(stable=True)
        lengths_WG = torch.bincount(owner_N * num_bags + bags_N, minlength=world * num_bags)
        lengths_C = exchange(lengths_WG, [num_bags] * world, bags_of)
        sent = lengths_WG.view(world, num_bags).sum(1).tolist()
        received = [int(part.sum()) for part in lengths_C.split(bags_of)]
        mine_K = exchange((rows_N // world)[order_N], sent, received)
        parts_CD = bag_sums(weight, mine_K, lengths_C)
        # Each rank gets the part of its own bags from every owner.
        parts_WGD = exchange(parts_CD, bags_of, [num_bags] * world)
        ctx.save_for_backward(mine_K, lengths_C)
        ctx.bags_of, ctx.num_rows = bags_of, len(weight)
        return parts_WGD.view(world, num_bags, weight.shape[1]).sum(0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        mine_K, lengths_C = ctx.saved_tensors
        world, (grad_GD,) = len(ctx.bags_of), grads
        everywhere = grad_GD.repeat(world, 1)
        grad_CD = exchange(everywhere, [len(grad_GD)] * world, ctx.bags_of)
        bags_K = torch.arange(len(lengths_C), device=mine_K.device).repeat_interleave(lengths_C)
        # Each rank's loss is the mean over its own rows; the step is on the mean over all.
        gradient = row_gradient(grad_CD / world, mine_K, bags_K, ctx.num_rows)
        return gradient, None, None, None
