"""Loss and accuracy of masked-word prediction.

Shapes: M masked positions of a batch, V words, B samples.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


def masked_lm_loss(logits_MV: Tensor, labels_M: Tensor) -> Tensor:
    """Compute the mean cross-entropy of the masked positions, in single precision.

    Source:
        mlcommons/training @ 9947bdf2, language_model/tensorflow/bert/run_pretraining.py, with its
        divisor M + 1e-5.
    """
    return F.cross_entropy(logits_MV.float(), labels_M, reduction="sum") / (labels_M.numel() + 1e-5)


class MaskedAccuracy(Metric):
    """Fraction of masked positions, over all evaluated samples, whose most likely word is right.

    Counts are kept per sample and each sample counts once, whichever ranks saw it and however
    often, so any number of ranks gives the same value to the bit.
    """

    full_state_update = False
    index: list[Tensor]
    counts: list[Tensor]
    loss: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for state in ("index", "counts", "loss"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(
        self,
        index_B: Tensor,
        word_logits_MV: Tensor,
        labels_M: Tensor,
        samples_M: Tensor,
        next_right_B: Tensor,
    ) -> None:
        """Add samples; ``samples_M`` holds the sample, in [0, B), of each masked position."""
        right_M = (word_logits_MV.argmax(1) == labels_M).long()
        loss_M = F.cross_entropy(word_logits_MV.float(), labels_M, reduction="none")
        zero_B = torch.zeros_like(index_B)
        counts = (
            zero_B.index_add(0, samples_M, right_M),
            zero_B.index_add(0, samples_M, torch.ones_like(right_M)),
            next_right_B,
        )
        self.index.append(index_B)
        self.counts.append(torch.stack(counts, 1))
        self.loss.append(zero_B.float().index_add(0, samples_M, loss_M))

    def add_nothing(self) -> None:
        """Add an empty entry of the right shapes: a rank without samples must still gather."""
        empty = torch.empty(0, dtype=torch.int64, device=self.device)
        self.index.append(empty)
        self.counts.append(empty.new_empty((0, 3)))
        self.loss.append(empty.float())

    def compute(self) -> dict[str, Tensor]:
        """Return float64 scalars on the CPU, accuracies in [0, 1]; NaN without samples."""
        index = dim_zero_cat(self.index).cpu()
        counts, loss = dim_zero_cat(self.counts).cpu(), dim_zero_cat(self.loss).cpu().double()
        ordered, order = torch.sort(index, stable=True)
        first = torch.ones_like(ordered, dtype=torch.bool)
        first[1:] = ordered[1:] != ordered[:-1]
        samples = order[first]
        right, words, next_right = counts[samples].sum(0).double()
        return {
            "masked_lm_accuracy": right / words,
            "next_sentence_accuracy": next_right / samples.numel(),
            "masked_lm_loss": loss[samples].sum() / words,
        }
