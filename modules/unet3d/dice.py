"""Dice overlap: 3D U-Net's training loss and its score.

Shapes: B cases, C classes with background first, K = C - 1 foreground classes, D H W voxels.

Source:
    mlcommons/training @ 9947bdf2, image_segmentation/pytorch/model/losses.py (DiceCELoss and
    DiceScore). Differs: the score is computed in float64 from exact counts, not from float32 sums.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

CLASSES = ("kidney", "tumour")

# Added to both sides of the fraction: a class absent from prediction and label then scores 1.
SMOOTHING = 1e-6
_SPATIAL = (2, 3, 4)


def dice_ce_loss(logits_BCDHW: Tensor, label_B1DHW: Tensor) -> Tensor:
    """Return half the foreground's soft Dice loss plus half the cross-entropy of all classes."""
    _check_same_voxels(logits_BCDHW, label_B1DHW)
    # In float32, also when a mixed-precision net gives bfloat16.
    log_prob_BCDHW = F.log_softmax(logits_BCDHW.float(), dim=1)
    cross_entropy = F.nll_loss(log_prob_BCDHW, label_B1DHW.squeeze(1).long())
    dice_BK = soft_dice_per_class(log_prob_BCDHW[:, 1:].exp(), label_B1DHW)
    return (1.0 - dice_BK.mean() + cross_entropy) / 2.0


def soft_dice_per_class(prob_BKDHW: Tensor, label_B1DHW: Tensor) -> Tensor:
    """Return dice_BK ``(2 sum(p y) + s) / (sum(y) + sum(p) + s)`` of probabilities, s = 1e-6."""
    classes_K = torch.arange(1, prob_BKDHW.shape[1] + 1, device=label_B1DHW.device)
    truth_BKDHW = label_B1DHW == classes_K.view(1, -1, 1, 1, 1)
    overlap_BK = (prob_BKDHW * truth_BKDHW).sum(_SPATIAL)
    total_BK = truth_BKDHW.sum(_SPATIAL) + prob_BKDHW.sum(_SPATIAL)
    return (2.0 * overlap_BK + SMOOTHING) / (total_BK + SMOOTHING)


def overlap_counts(logits_BCDHW: Tensor, label_B1DHW: Tensor) -> Tensor:
    """Return counts_BK3, int64 voxels of each class in both, in the prediction, in the label."""
    _check_same_voxels(logits_BCDHW, label_B1DHW)
    # argmax gives the same, 11 times slower on a CPU over an axis that is strided.
    pred_BDHW, label_BDHW = logits_BCDHW.max(1).indices, label_B1DHW.squeeze(1)
    counts = []
    for class_id in range(1, logits_BCDHW.shape[1]):
        predicted, labelled = pred_BDHW == class_id, label_BDHW == class_id
        masks = (predicted & labelled, predicted, labelled)
        counts.append(torch.stack([mask.sum((1, 2, 3)) for mask in masks], dim=-1))
    return torch.stack(counts, dim=1)


def dice_from_counts(counts_BK3: Tensor) -> Tensor:
    """Return dice_BK in float64: 1 where a class is in neither, about 0 where in one only."""
    both, predicted, labelled = counts_BK3.double().unbind(-1)
    return (2.0 * both + SMOOTHING) / (predicted + labelled + SMOOTHING)


class CaseDice(Metric):
    """Mean Dice and loss over the evaluated cases, equal to the bit for any number of ranks.

    Each case counts once, whichever ranks saw it, and the mean runs in the order of the index.

    Args:
        classes: Names of the foreground classes, from label 1 on.
    """

    full_state_update = False
    index: list[Tensor]
    counts: list[Tensor]
    loss: list[Tensor]

    def __init__(self, classes: Sequence[str] = CLASSES) -> None:
        super().__init__()
        self.classes = tuple(classes)
        for state in ("index", "counts", "loss"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, index_B: Tensor, counts_BK3: Tensor, loss_B: Tensor) -> None:
        """Add cases by their index, with the counts of ``overlap_counts``."""
        self.index.append(index_B)
        self.counts.append(counts_BK3)
        self.loss.append(loss_B)

    def add_nothing(self) -> None:
        """Add empty tensors, as a rank without cases must still gather."""
        index_B = torch.empty(0, dtype=torch.int64, device=self.device)
        counts_BK3 = index_B.new_empty((0, len(self.classes), 3))
        self.update(index_B, counts_BK3, torch.empty(0, device=self.device))

    def compute(self) -> dict[str, Tensor]:
        """Return the means over all ranks' cases in float64 on the CPU, NaN without any case."""
        index = dim_zero_cat(self.index).cpu()
        counts, loss = dim_zero_cat(self.counts).cpu(), dim_zero_cat(self.loss).cpu()
        ordered, order = torch.sort(index, stable=True)
        first = torch.ones_like(ordered, dtype=torch.bool)
        first[1:] = ordered[1:] != ordered[:-1]
        cases = order[first]
        dice_K = dice_from_counts(counts[cases]).mean(0)
        return {
            "mean_dice": dice_K.mean(),
            **{f"dice_{name}": dice for name, dice in zip(self.classes, dice_K, strict=True)},
            "loss": loss[cases].double().mean(),
        }


def _check_same_voxels(logits: Tensor, label: Tensor) -> None:
    if logits.shape[:1] + logits.shape[2:] != label.shape[:1] + label.shape[2:]:
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} do not cover the voxels of "
            f"a label of shape {tuple(label.shape)}"
        )
