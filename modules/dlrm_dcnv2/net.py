"""DLRM-DCNv2: a click's log-odds from 13 numbers and 26 bags of categories.

Letters: B rows, T tables, L ids of all bags of a row, D width of an embedding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modules.dlrm_dcnv2.cross_net import LowRankCrossNet
from modules.dlrm_dcnv2.fbgemm import FbgemmTables
from modules.recommendation import NUM_DENSE
from modules.recommendation.pooled_embedding import PooledEmbedding

# Distinct categories of the 26 columns of Criteo 1TB, at most 40 million, and ids per bag.
TABLE_SIZES = (
    40_000_000, 39060, 17295, 7424, 20265, 3, 7122, 1543, 63, 40_000_000, 3067956, 405282, 10,
    2209, 11938, 155, 4, 976, 14, 40_000_000, 40_000_000, 40_000_000, 590152, 12973, 108, 36,
)  # fmt: skip
KERNELS = ("torch", "fbgemm")
EPSILON = 1e-8  # Adagrad's
BAG_SIZES = (3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1)


class DCNv2(nn.Module):
    """Bottom MLP, one bag of embeddings per category, low-rank cross layers, top MLP.

    Source:
        mlcommons/training @ aa344c7, recommendation_v2/torchrec_dlrm (README's options); torchrec,
        models/dlrm.py. Differs: one fused weight, other random streams.
    """

    def __init__(
        self,
        *,
        table_sizes: Sequence[int] = TABLE_SIZES,
        bag_sizes: Sequence[int] = BAG_SIZES,
        embedding_width: int = 128,
        bottom_widths: Sequence[int] = (512, 256),
        top_widths: Sequence[int] = (1024, 1024, 512, 256),
        cross_layers: int = 3,
        cross_rank: int = 512,
        kernels: str = "torch",
    ) -> None:
        """Defaults are the closed reference: 26,151,671,809 parameters, 97.4 GiB of tables.

        Args:
            table_sizes: Rows of each embedding table.
            bag_sizes: Ids of each table per row of data.
            embedding_width: Elements of an embedding, and width of the bottom MLP's last layer.
            bottom_widths: Widths of the bottom MLP's layers before the last.
            top_widths: Widths of the top MLP's layers before the single log-odds.
            cross_layers: Cross layers.
            cross_rank: Rank of their weights.
            kernels: ``torch``, or ``fbgemm`` (one device, extra ``[fbgemm]``): the same step by
                FBGEMM's kernels.

        Raises:
            ValueError: If the tables and Adagrad's sums do not fit in memory, if there is not one
                bag size per table, or if the kernels are unknown or not installed.
        """
        super().__init__()
        self.table_sizes, self.bag_sizes = tuple(table_sizes), tuple(bag_sizes)
        interacted = (len(self.table_sizes) + 1) * embedding_width
        self.bottom = _mlp([NUM_DENSE, *bottom_widths, embedding_width])
        # ReLU after the bottom's last layer too; the top ends in the bare log-odds.
        self.bottom.append(nn.ReLU(inplace=True))
        self.cross = LowRankCrossNet(interacted, cross_layers, cross_rank)
        self.top = _mlp([interacted, *top_widths, 1])
        if kernels not in KERNELS:
            raise ValueError(f"kernels is {kernels!r}; allowed: {', '.join(KERNELS)}")
        tables = self.table_sizes, self.bag_sizes, embedding_width
        self.tables = (
            PooledEmbedding(*tables) if kernels == "torch" else FbgemmTables(*tables, eps=EPSILON)
        )

    def forward(self, dense_BN: Tensor, ids_BL: Tensor) -> Tensor:
        """Compute the log-odds of a click.

        Args:
            dense_BN: (B, 13) float32, ``log(x + 3)`` of the integers.
            ids_BL: (B, L) int32 or int64, the bags of all tables side by side.

        Returns:
            logits_B: float32 or autocast's type.
        """
        dense_BD = self.bottom(dense_BN)
        vectors_BTD = self.tables(ids_BL).to(dense_BD.dtype)
        features_BF = torch.cat([dense_BD, vectors_BTD.flatten(1)], 1)
        return self.top(self.cross(features_BF)).squeeze(1)


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    """Build linear layers with torch's own initial values, and ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])
