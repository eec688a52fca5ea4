"""DLRM: a click's log-odds from 13 numbers and 26 categories.

Letters: B rows, T tables, D width of an embedding, P pairs of features.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from modules.dlrm.interaction import interact
from modules.recommendation import NUM_DENSE
from modules.recommendation.fused_embedding import FusedEmbedding

# Distinct categories of the 26 columns of Criteo 1TB at an index range of 40 million.
TABLE_SIZES = (
    39884406, 39043, 17289, 7420, 20263, 3, 7120, 1543, 63, 38532951, 2953546, 403346, 10,
    2208, 11938, 155, 4, 976, 14, 39979771, 25641295, 39664984, 585935, 12972, 108, 36,
)  # fmt: skip


class DLRM(nn.Module):
    """Bottom MLP, one embedding per category, dot products of all pairs, top MLP.

    Source:
        facebookresearch/dlrm @ 6d75c84d, dlrm_s_pytorch.py. Differs: returns the log-odds (no
        sigmoid), one fused table, other random streams.
    """

    def __init__(
        self,
        *,
        table_sizes: Sequence[int] = TABLE_SIZES,
        embedding_width: int = 128,
        bottom_widths: Sequence[int] = (512, 256),
        top_widths: Sequence[int] = (1024, 1024, 512, 256),
        table_dtype: str = "float32",
    ) -> None:
        """Defaults are the closed reference: 24,036,595,969 parameters, 89.5 GiB of tables.

        Args:
            table_sizes: Rows of each embedding table.
            embedding_width: Elements of an embedding, and width of the bottom MLP's last layer.
            bottom_widths: Widths of the bottom MLP's layers before the last.
            top_widths: Widths of the top MLP's layers before the single log-odds.
            table_dtype: ``float32``; ``bfloat16`` or ``float16`` (stochastic rounding) halve it.

        Raises:
            ValueError: If the tables do not fit in memory.
        """
        super().__init__()
        self.table_sizes = tuple(table_sizes)
        num_features = len(self.table_sizes) + 1
        interacted = embedding_width + num_features * (num_features - 1) // 2
        self.bottom = _mlp([NUM_DENSE, *bottom_widths, embedding_width])
        # ReLU after the bottom's last layer too; the top ends in the bare log-odds.
        self.bottom.append(nn.ReLU(inplace=True))
        self.top = _mlp([interacted, *top_widths, 1])
        self.tables = FusedEmbedding(self.table_sizes, embedding_width, dtype=table_dtype)

    def forward(self, dense_BN: Tensor, ids_BT: Tensor) -> Tensor:
        """Compute the log-odds of a click.

        Args:
            dense_BN: (B, 13) float32, ``log(x + 1)`` of the integers.
            ids_BT: (B, T) int32 or int64 row of each table.

        Returns:
            logits_B: float32 or autocast's type.
        """
        dense_BD = self.bottom(dense_BN)
        return self.top(interact(dense_BD, self.tables(ids_BT))).squeeze(1)


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    """Build linear layers with ReLU between them, initialised as the reference does."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip(widths, widths[1:], strict=False):
        linear = nn.Linear(inputs, outputs)
        nn.init.normal_(linear.weight, std=math.sqrt(2 / (inputs + outputs)))
        nn.init.normal_(linear.bias, std=math.sqrt(1 / outputs))
        layers += [linear, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])
