"""Exact area under the ROC curve of many scores, in little memory.

Score and label are packed into one int32 whose order is the score's order, so that a plain integer
sort (vectorised on CPUs, radix on GPUs) does nearly all the work. Letters: N scores.
"""

import math

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

CHUNK = 1 << 22


def pack(scores_N: Tensor, labels_N: Tensor) -> Tensor:
    """Scores and labels in one integer each, ordered as the scores are.

    The bits of a float32 in [0, 1] grow with its value and leave two bits free.

    Args:
        scores_N: float32 in [0, 1].
        labels_N: 0 or 1, any type.

    Returns:
        keys_N: int32.
    """
    # + 0.0 turns -0.0 into 0.0, which is equal to it but has other bits.
    return (scores_N.float() + 0.0).view(torch.int32) * 2 + labels_N.to(torch.int32)


def auc_from_keys(keys_N: Tensor) -> float:
    """Probability that a positive scores above a negative, ties counting one half.

    All sums are of integers, so the result is exact but for the last division.

    Args:
        keys_N: From ``pack``, in any order; sorted in place where it lies on the CPU.

    Returns:
        The area in [0, 1], NaN unless both labels occur.
    """
    if keys_N.device.type == "cpu":
        keys_N = keys_N.contiguous()
        keys_N.numpy().sort()
    else:
        keys_N = keys_N.sort().values
    double_area, positives, ended_positives, ended = 0, 0, 0, 0
    for start in range(0, len(keys_N), CHUNK):
        chunk, following = keys_N[start : start + CHUNK], keys_N[start + 1 : start + CHUNK + 1]
        is_end = torch.ones_like(chunk, dtype=torch.bool)
        is_end[: len(following)] = chunk[: len(following)] >> 1 != following >> 1
        # Per group of equal scores: how many rows and positives lie up to its end.
        end_G = is_end.nonzero().squeeze(1)
        rows_G = end_G + (start + 1)
        positives_G = (chunk & 1).cumsum(0)[end_G] + positives
        positives += int((chunk & 1).sum())
        if not len(end_G):
            continue
        previous_rows = torch.cat([rows_G.new_tensor([ended]), rows_G[:-1]])
        previous_positives = torch.cat([rows_G.new_tensor([ended_positives]), positives_G[:-1]])
        below_G = previous_rows - previous_positives
        through_G = rows_G - positives_G
        double_area += int(((positives_G - previous_positives) * (below_G + through_G)).sum())
        ended, ended_positives = int(rows_G[-1]), int(positives_G[-1])
    negatives = len(keys_N) - positives
    return double_area / (2 * positives * negatives) if positives and negatives else math.nan


def chance_margin(positives: int, negatives: int) -> float:
    """Standard deviation of the area when scores say nothing about labels.

    Args:
        positives: Number of positives.
        negatives: Number of negatives.

    Returns:
        The deviation around 0.5; infinite where a label is missing.

    Source:
        Mann and Whitney (1947), variance of U without ties.
    """
    if not positives or not negatives:
        return math.inf
    return math.sqrt((positives + negatives + 1) / (12 * positives * negatives))


class ExactAUC(Metric):
    """Area under the ROC curve over all ranks, 4 bytes per score, the same for any rank count."""

    full_state_update = False
    keys: list[Tensor]
    bad: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("keys", default=[], dist_reduce_fx="cat")
        self.add_state("bad", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores_N: Tensor, labels_N: Tensor) -> None:
        """Add scores.

        Args:
            scores_N: float32 in [0, 1]; anything else makes the area NaN.
            labels_N: 0 or 1.
        """
        self.bad += (~((scores_N >= 0) & (scores_N <= 1))).sum()
        self.keys.append(pack(scores_N, labels_N))

    def compute(self) -> Tensor:
        """The area over everything added on all ranks.

        Returns:
            auc: float64 scalar on the CPU; NaN if a score was no probability or a label is
            missing.
        """
        # Without any update there is no tensor to sort, and no area either.
        value = math.nan
        if int(self.bad) == 0 and len(self.keys):
            value = auc_from_keys(dim_zero_cat(self.keys).clone())
        return torch.tensor(value, dtype=torch.float64)

    def chance(self) -> float:
        """Standard deviation of the area around 0.5 if scores said nothing, from this rank's rows.

        Returns:
            The deviation; an overestimate where other ranks hold further rows.
        """
        positives = sum(int((keys & 1).sum()) for keys in self.keys)
        return chance_margin(positives, sum(map(len, self.keys)) - positives)
