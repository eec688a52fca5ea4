"""Cross-entropy of every token without holding all logits.

Shapes: T tokens, C hidden size, V words.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Logits that exist at once, 0.5 GB in float32. A sequence of 8,192 tokens and 128,256 words has
# eight times as many, and its gradient as many again.
MOST_LOGITS = 1 << 27


def token_losses(
    hidden_TC: Tensor, weight_VC: Tensor, labels_T: Tensor, *, most_logits: int = MOST_LOGITS
) -> Tensor:
    """Compute the cross-entropy of each token's label, some tokens at a time.

    The backward pass computes the logits of more than ``most_logits`` again.

    Args:
        hidden_TC: Outputs of the last layer.
        weight_VC: The output matrix.
        labels_T: int64 in [0, V).
        most_logits: Logits to hold at once.

    Returns:
        losses_T: float32, in nats.
    """
    rows = max(1, most_logits // len(weight_VC))
    if len(labels_T) <= rows:
        return _losses(hidden_TC, weight_VC, labels_T)
    parts = [
        checkpoint(_losses, hidden, weight_VC, labels, use_reentrant=False)
        for hidden, labels in zip(hidden_TC.split(rows), labels_T.split(rows), strict=True)
    ]
    return torch.cat(parts)


def _losses(hidden_TC: Tensor, weight_VC: Tensor, labels_T: Tensor) -> Tensor:
    logits_TV = F.linear(hidden_TC, weight_VC)
    return F.cross_entropy(logits_TV.float(), labels_T, reduction="none")
