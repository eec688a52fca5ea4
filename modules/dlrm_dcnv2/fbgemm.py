"""Embedding tables of FBGEMM's kernels, which take Adagrad's step inside the backward pass.

For one device; needs the extra ``[fbgemm]``. Letters: B rows of a batch, T tables, L ids of a row,
D width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

MISSING = "kernels fbgemm needs FBGEMM and the torch that it fits: pip install -e '.[fbgemm]'"


class FbgemmTables(nn.Module):
    """The same sums as ``PooledEmbedding``; no gradient of the tables is ever written.

    Adagrad's sums are part of the module's state, so checkpoints hold them with the weights.

    Source:
        pytorch/FBGEMM, SplitTableBatchedEmbeddingBagsCodegen with EXACT_ADAGRAD (element-wise).
    """

    def __init__(
        self, table_sizes: Sequence[int], bag_sizes: Sequence[int], width: int, *, eps: float
    ) -> None:
        """Allocate tables and sums on the default device; rows are U(-1/sqrt(n), 1/sqrt(n)).

        Args:
            table_sizes: Rows of each table.
            bag_sizes: Ids per sample of each table.
            width: Elements of a row, a multiple of 4.
            eps: Adagrad's.

        Raises:
            ValueError: If FBGEMM is not installed or cannot be loaded.
        """
        super().__init__()
        codegen, configs, common = _fbgemm()
        on_cpu = torch.empty(0).device.type == "cpu"
        location = common.EmbeddingLocation.HOST if on_cpu else common.EmbeddingLocation.DEVICE
        device = codegen.ComputeDevice.CPU if on_cpu else codegen.ComputeDevice.CUDA
        self.table_sizes, self.bag_sizes, self.width = tuple(table_sizes), tuple(bag_sizes), width
        self.kernels = codegen.SplitTableBatchedEmbeddingBagsCodegen(
            [(rows, width, location, device) for rows in self.table_sizes],
            optimizer=configs.EmbOptimType.EXACT_ADAGRAD,
            pooling_mode=common.PoolingMode.SUM,
            learning_rate=0.0,
            eps=eps,
        )
        for rows in self.split():
            nn.init.uniform_(rows, -(len(rows) ** -0.5), len(rows) ** -0.5)

    def forward(self, ids_BL: Tensor) -> Tensor:
        """Sum the rows of each bag: (B, T, D) float32."""
        parts = ids_BL.long().split(self.bag_sizes, 1)
        lengths_T = torch.tensor(self.bag_sizes, device=ids_BL.device)
        ends = lengths_T.repeat_interleave(len(ids_BL)).cumsum(0)  # FBGEMM wants table by table
        starts = nn.functional.pad(ends, (1, 0))
        sums = self.kernels(torch.cat([part.flatten() for part in parts]), starts)
        return sums.view(len(ids_BL), len(self.bag_sizes), self.width)

    def split(self) -> list[Tensor]:
        """Return the rows of each table, which share memory with the module."""
        return [rows.detach() for rows in self.kernels.split_embedding_weights()]

    def sums(self) -> list[Tensor]:
        """Return Adagrad's sums of each table."""
        return [state[0] for state in self.kernels.split_optimizer_states()]

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the rate of the steps that the backward pass takes; 0 until then."""
        self.kernels.set_learning_rate(learning_rate)


def _fbgemm() -> tuple[Any, Any, Any]:
    try:
        from fbgemm_gpu import split_embedding_configs as configs
        from fbgemm_gpu import split_table_batched_embeddings_ops_common as common
        from fbgemm_gpu import split_table_batched_embeddings_ops_training as codegen
    except (ImportError, OSError) as error:
        raise ValueError(f"{MISSING} ({error})") from error
    return codegen, configs, common
