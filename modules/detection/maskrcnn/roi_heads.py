"""Heads on regions: pooling, sampling, losses and detections of Mask R-CNN.

Letters: R regions, K classes with background as class 0, G ground truth, N detections, C channels.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from modules.detection.boxes import box_area
from modules.detection.contract import check_not_diverged
from modules.detection.maskrcnn.box_coding import (
    HEAD_WEIGHTS,
    clip_boxes,
    decode_boxes,
    encode_boxes,
)
from modules.detection.maskrcnn.region_matching import match_proposals, pixel_nms, sample_regions

CANONICAL_SIZE, CANONICAL_LEVEL = 224, 4
LEAST_SCORE, NMS_IOU, DETECTIONS_PER_IMAGE = 0.05, 0.5, 100
POSITIVE_SHARE = 0.25


class Regions(NamedTuple):
    """Regions of one image that a training step samples, positives first."""

    box: Tensor  # (R, 4)
    label: Tensor  # (R,) int64, 0 for background
    truth: Tensor  # (positives,) int64, the ground-truth box of each positive
    positives: int


def sample_proposals(
    proposal_R4: Tensor, truth_G4: Tensor, truth_label_G: Tensor, count: int
) -> Regions:
    """Sample regions of one image from proposals and ground truth, at most a quarter positive."""
    candidates = torch.cat([proposal_R4, truth_G4])
    match = match_proposals(candidates, truth_G4)
    positive, negative = sample_regions(match, count, int(count * POSITIVE_SHARE))
    chosen = torch.cat([positive, negative])
    label = torch.cat([truth_label_G[match[positive]], torch.zeros_like(negative)])
    return Regions(candidates[chosen], label, match[positive], len(positive))


def region_levels(box_R4: Tensor) -> Tensor:
    """Return the pyramid level for a region's size, from 0 (stride 4) to 3 (stride 32)."""
    side = box_area(box_R4, pixel=1).clamp(min=0).sqrt()
    level = (CANONICAL_LEVEL + (side / CANONICAL_SIZE + 1e-6).log2()).floor()
    return level.clamp(2, 5).long() - 2


def pool_regions(features: Sequence[Tensor], boxes: Sequence[Tensor], size: int) -> Tensor:
    """Pool all images' regions from P2 to P5, without the half-pixel shift of newer pooling."""
    image = torch.cat([torch.full((len(b), 1), float(i)) for i, b in enumerate(boxes)])
    every = torch.cat(list(boxes)).float()
    level_R = region_levels(every)
    order_R = level_R.argsort()
    levels = torch.arange(len(features), device=level_R.device)
    counts = (level_R[:, None] == levels).sum(0).tolist()
    rois = torch.cat([image.to(every), every], 1)[order_R].split(counts)
    # In single precision, as half precision would move corners by whole pixels.
    parts = [
        roi_align(feature.float(), roi, size, 1 / (4 * 2**level), sampling_ratio=2, aligned=False)
        for level, (feature, roi) in enumerate(zip(features, rois, strict=True))
    ]
    pooled = torch.cat(parts).to(features[0].dtype)
    return pooled.index_select(0, order_R.argsort())


def box_losses(
    logit_RK: Tensor, code_RK4: Tensor, regions: Sequence[Regions], truths: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Return the ``class`` and ``box`` loss per sampled region of the batch."""
    label_R = torch.cat([r.label for r in regions])
    boxes = torch.cat([r.box for r in regions])
    matched = torch.cat([_matched(r, truth) for r, truth in zip(regions, truths, strict=True)])
    positive = label_R.nonzero()[:, 0]
    target = encode_boxes(matched, boxes[positive], HEAD_WEIGHTS)
    predicted = code_RK4.float()[positive, label_R[positive]]
    box = F.smooth_l1_loss(predicted, target, beta=1.0, reduction="sum")
    return {
        "class": F.cross_entropy(logit_RK.float(), label_R),
        "box": box / len(label_R),
    }


def _matched(regions: Regions, truth_G4: Tensor) -> Tensor:
    """Return the ground-truth boxes of an image's positive regions."""
    return truth_G4[regions.truth] if regions.positives else regions.box[:0]


def mask_loss(logit_RSS: Tensor, target_RSS: Tensor) -> Tensor:
    """Return the mean cross-entropy over all mask pixels, 0 without any region."""
    if not len(logit_RSS):
        return 0 * logit_RSS.float().sum()
    return F.binary_cross_entropy_with_logits(logit_RSS.float(), target_RSS)


def detect(
    logit_RK: Tensor, code_RK4: Tensor, proposal_R4: Tensor, size: Sequence[int]
) -> Mapping[str, Tensor]:
    """Return ``boxes``, ``scores`` and ``labels`` of an image of ``size`` without padding.

    At most 100, or more if scores tie with the hundredth.
    """
    score_RK = logit_RK.float().softmax(1)
    check_not_diverged(score_RK, code_RK4)
    box_RK4 = decode_boxes(code_RK4.float(), proposal_R4, HEAD_WEIGHTS)
    box_RK4 = clip_boxes(box_RK4, *size)
    boxes, scores, labels = [], [], []
    likely_K = (score_RK > LEAST_SCORE).any(0).tolist()
    for label in (k for k, likely in enumerate(likely_K) if likely and k > 0):
        rows = (score_RK[:, label] > LEAST_SCORE).nonzero()[:, 0]
        box, score = box_RK4[rows, label], score_RK[rows, label]
        keep = pixel_nms(box, score, NMS_IOU)
        boxes.append(box[keep])
        scores.append(score[keep])
        labels.append(torch.full_like(keep, label))
    if not boxes:
        empty = score_RK.new_zeros((0,))
        return {"boxes": empty.view(0, 4), "scores": empty, "labels": empty.long()}
    box, score, label_N = torch.cat(boxes), torch.cat(scores), torch.cat(labels)
    if len(score) > DETECTIONS_PER_IMAGE:
        keep = score >= score.topk(DETECTIONS_PER_IMAGE).values[-1]
        box, score, label_N = box[keep], score[keep], label_N[keep]
    return {"boxes": box, "scores": score, "labels": label_N}
