"""Log perplexity: the mean cross-entropy per token, in nats."""

import torch
from torch import Tensor
from torchmetrics import Metric


class LogPerplexity(Metric):
    """Weighted mean of token losses, summed in float64 over batches and ranks.

    ``set_dtype(torch.float32)`` is for devices without float64.

    Source:
        mlcommons/training @ aa344c7, small_llm_pretraining. Differs: a sum divided by a count, not
        a mean of batch means.
    """

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "weight"):
            zero = torch.zeros((), dtype=torch.float64)
            self.add_state(name, default=zero, dist_reduce_fx="sum")

    def update(self, losses_BS: Tensor, weights_BS: Tensor) -> None:
        """Add tokens; a weight of 0 leaves one out."""
        weights = weights_BS.to(self.weight.dtype)
        self.total += (losses_BS.to(self.total.dtype) * weights).sum()
        self.weight += weights.sum()

    def compute(self) -> Tensor:
        """Return the mean, a scalar of the sums' type; NaN without tokens."""
        return self.total / self.weight
