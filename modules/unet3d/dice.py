"""Dice overlap as 3D U-Net trains on it and is judged by it.

Shapes: B cases, C classes with background first, K = C - 1 foreground classes, D H W voxels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Added to both sides of the fraction: a class absent from prediction and label then scores 1.
SMOOTHING = 1e-6
_SPATIAL = (2, 3, 4)


def dice_ce_loss(logits_BCDHW: Tensor, label_B1DHW: Tensor) -> Tensor:
    """Half the soft Dice loss of the foreground plus half the cross-entropy of all classes.

    Everything is computed in float32, also when a mixed-precision net gives bfloat16.

    Args:
        logits_BCDHW: Scores before softmax, any float type.
        label_B1DHW: Class ids in ``[0, C)``, any integer type.

    Returns:
        loss: float32 scalar >= 0. Shapes that do not match are a ValueError that prints both.

    Source:
        mlcommons/training @ 9947bdf2, image_segmentation/pytorch/model/losses.py (DiceCELoss).
        Dice leaves the background out, cross-entropy does not; linear denominators.
    """
    _require_same_voxels(logits_BCDHW, label_B1DHW)
    log_prob_BCDHW = F.log_softmax(logits_BCDHW.float(), dim=1)
    cross_entropy = F.nll_loss(log_prob_BCDHW, label_B1DHW.squeeze(1).long())
    dice_BK = soft_dice_per_class(log_prob_BCDHW[:, 1:].exp(), label_B1DHW)
    return (1.0 - dice_BK.mean() + cross_entropy) / 2.0


def soft_dice_per_class(prob_BKDHW: Tensor, label_B1DHW: Tensor) -> Tensor:
    """Dice overlap of probabilities with the label, per case and foreground class.

    Args:
        prob_BKDHW: Probabilities of classes 1 to K, float32 in ``[0, 1]``.
        label_B1DHW: Class ids, any integer type.

    Returns:
        dice_BK: float32 in ``[0, 1]``, ``(2 sum(p y) + s) / (sum(y) + sum(p) + s)``, s = 1e-6.
    """
    classes_K = torch.arange(1, prob_BKDHW.shape[1] + 1, device=label_B1DHW.device)
    truth_BKDHW = label_B1DHW == classes_K.view(1, -1, 1, 1, 1)
    overlap_BK = (prob_BKDHW * truth_BKDHW).sum(_SPATIAL)
    total_BK = truth_BKDHW.sum(_SPATIAL) + prob_BKDHW.sum(_SPATIAL)
    return (2.0 * overlap_BK + SMOOTHING) / (total_BK + SMOOTHING)


def overlap_counts(logits_BCDHW: Tensor, label_B1DHW: Tensor) -> Tensor:
    """Count the voxels that a hard Dice needs; integers, so that no order of summing matters.

    Args:
        logits_BCDHW: Scores; the predicted class is the largest one.
        label_B1DHW: Class ids in ``[0, C)``, any integer type.

    Returns:
        counts_BK3: int64 voxels of classes 1 to K: in both, in the prediction, in the label.
            Shapes that do not match are a ValueError that prints both.
    """
    _require_same_voxels(logits_BCDHW, label_B1DHW)
    pred_BDHW, label_BDHW = logits_BCDHW.argmax(1), label_B1DHW.squeeze(1)
    counts = []
    for class_id in range(1, logits_BCDHW.shape[1]):
        predicted, labelled = pred_BDHW == class_id, label_BDHW == class_id
        masks = (predicted & labelled, predicted, labelled)
        counts.append(torch.stack([mask.sum((1, 2, 3)) for mask in masks], dim=-1))
    return torch.stack(counts, dim=1)


def dice_from_counts(counts_BK3: Tensor) -> Tensor:
    """Dice score of a hard segmentation from its voxel counts.

    Args:
        counts_BK3: int64 voxels in both, in the prediction and in the label.

    Returns:
        dice_BK: float64 in ``[0, 1]``; 1 where a class is in neither, about 0 where in one only.

    Source:
        mlcommons/training @ 9947bdf2, image_segmentation/pytorch/model/losses.py (DiceScore).
        Differs: float64 from exact counts instead of float32 sums.
    """
    both, predicted, labelled = counts_BK3.double().unbind(-1)
    return (2.0 * both + SMOOTHING) / (predicted + labelled + SMOOTHING)


def _require_same_voxels(logits: Tensor, label: Tensor) -> None:
    if logits.shape[:1] + logits.shape[2:] != label.shape[:1] + label.shape[2:]:
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} do not cover the voxels of "
            f"a label of shape {tuple(label.shape)}"
        )
