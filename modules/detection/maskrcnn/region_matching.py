"""Assignment of ground truth to anchors and proposals, and sampling of those to train on.

Letters: A anchors, R proposals, G ground-truth boxes; corners are inclusive pixels.
"""

import torch
from torch import Tensor
from torchvision.ops import nms

from modules.detection.boxes import box_iou

IGNORED, NEGATIVE = -2, -1
ANCHOR_POSITIVE_IOU, ANCHOR_NEGATIVE_IOU, PROPOSAL_POSITIVE_IOU = 0.7, 0.3, 0.5


def match_anchors(anchor_A4: Tensor, truth_G4: Tensor, height: int, width: int) -> Tensor:
    """Assign a ground-truth box, ``NEGATIVE`` or ``IGNORED`` to every anchor of an image.

    Positive from IoU 0.7, negative below 0.3. All anchors that attain a ground-truth box's best
    IoU (over all anchors, also those over the border) are positive, each for its OWN best box.
    Anchors that leave the unpadded image are ignored regardless of what they overlap.
    """
    x1, y1, x2, y2 = anchor_A4.unbind(1)
    inside = (x1 >= 0) & (y1 >= 0) & (x2 < width) & (y2 < height)
    match_A = torch.full((len(anchor_A4),), NEGATIVE, device=anchor_A4.device)
    if len(truth_G4):
        iou_GA = box_iou(truth_G4, anchor_A4, pixel=1)
        iou_A, best_A = iou_GA.max(0)
        match_A[iou_A >= ANCHOR_NEGATIVE_IOU] = IGNORED
        attains_best = (iou_GA == iou_GA.max(1, keepdim=True).values).any(0)
        positive = (iou_A >= ANCHOR_POSITIVE_IOU) | attains_best
        match_A = torch.where(positive, best_A, match_A)
    return match_A.masked_fill(~inside, IGNORED)


def match_proposals(proposal_R4: Tensor, truth_G4: Tensor) -> Tensor:
    """Assign a ground-truth box (from IoU 0.5) or ``NEGATIVE`` to every proposal of an image."""
    if not len(truth_G4):
        return torch.full((len(proposal_R4),), NEGATIVE, device=proposal_R4.device)
    iou_R, best_R = box_iou(truth_G4, proposal_R4, pixel=1).max(0)
    return best_R.masked_fill(iou_R < PROPOSAL_POSITIVE_IOU, NEGATIVE)


def sample_regions(match_N: Tensor, count: int, most_positive: int) -> tuple[Tensor, Tensor]:
    """Draw indices of positives and negatives, together ``count`` if there are enough negatives."""
    positive, negative = (match_N >= 0).nonzero()[:, 0], (match_N == NEGATIVE).nonzero()[:, 0]
    positive = _draw(positive, most_positive)
    return positive, _draw(negative, count - len(positive))


def _draw(index_N: Tensor, count: int) -> Tensor:
    """Draw at most ``count`` of the indices without replacement."""
    order = torch.randperm(len(index_N), device=index_N.device)
    return index_N[order[:count]]


def pixel_nms(box_N4: Tensor, score_N: Tensor, iou_threshold: float) -> Tensor:
    """Return the indices that suppression of boxes with inclusive corners keeps, best first."""
    # Moving the far corner out by one pixel makes widths x2 - x1 + 1 where nms takes x2 - x1.
    return nms(torch.cat([box_N4[:, :2], box_N4[:, 2:] + 1], 1), score_N, iou_threshold)
