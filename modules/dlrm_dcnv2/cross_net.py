"""Low-rank cross layers: products of all features with the first layer's input.

Letters: B rows, F features (all vectors of a row side by side), K rank.
"""

import torch
from torch import Tensor, nn


class LowRankCrossNet(nn.Module):
    """Layers ``x <- x0 * (W V x + b) + x`` over the same input x0.

    Source:
        Wang et al. (2021), "DCN V2"; torchrec, modules/crossnet.py (initial values).
    """

    def __init__(self, width: int, num_layers: int, rank: int) -> None:
        """Draw V and W from Xavier's normal distribution; b is 0.

        Args:
            width: Numbers in a row.
            num_layers: Cross layers.
            rank: Width between V and W.
        """
        super().__init__()
        downs = [nn.Linear(width, rank, bias=False) for _ in range(num_layers)]
        ups = [nn.Linear(rank, width) for _ in range(num_layers)]
        for down, up in zip(downs, ups, strict=True):
            nn.init.xavier_normal_(down.weight)
            nn.init.xavier_normal_(up.weight)
            nn.init.zeros_(up.bias)
        self.down, self.up = nn.ModuleList(downs), nn.ModuleList(ups)

    def forward(self, first_BF: Tensor) -> Tensor:
        """Return the last layer's (B, F), in the input's or autocast's type."""
        x_BF = first_BF
        for down, up in zip(self.down, self.up, strict=True):
            x_BF = torch.addcmul(x_BF, first_BF, up(down(x_BF)).to(first_BF.dtype))
        return x_BF
