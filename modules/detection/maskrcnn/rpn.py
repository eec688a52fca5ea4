"""Region proposals: from the head's outputs to boxes, and the head's losses.

Letters: B batch, A anchors of all levels, L one level's anchors, R proposals, G ground truth.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.detection.maskrcnn.box_coding import (
    RPN_WEIGHTS,
    clip_boxes,
    decode_boxes,
    encode_boxes,
)
from modules.detection.maskrcnn.region_matching import match_anchors, pixel_nms, sample_regions

NMS_IOU = 0.7
BOX_BETA = 1 / 9


class Limits(NamedTuple):
    """Maximum numbers of proposals."""

    per_level: int  # before and after suppression, per image and level
    over_levels: int  # over all levels: of the whole batch in training, per image in evaluation


def flatten_head(logits: Sequence[Tensor], codes: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
    """Reorder (B, 3, H, W) and (B, 12, H, W) of every level to (B, L) and (B, L, 4) as anchors."""
    flat_logits = [x.permute(0, 2, 3, 1).flatten(1).float() for x in logits]
    flat_codes = [x.permute(0, 2, 3, 1).reshape(len(x), -1, 4).float() for x in codes]
    return flat_logits, flat_codes


@torch.no_grad()
def propose(
    anchors: Sequence[Tensor],
    logits: Sequence[Tensor],
    codes: Sequence[Tensor],
    sizes: Sequence[Sequence[int]],
    limits: Limits,
    *,
    pooled: bool,
) -> list[Tensor]:
    """Return each image's proposals (R, 4); ``sizes`` are heights and widths without padding.

    ``pooled`` keeps the best over all images of the batch together, as the reference trains.
    """
    size_B2 = logits[0].new_tensor(sizes)
    levels = [
        _level_proposals(*level, size_B2, limits.per_level)
        for level in zip(anchors, logits, codes, strict=True)
    ]
    boxes, scores = [], []
    for chosen in zip(*levels, strict=True):
        boxes.append(torch.cat([box for box, _ in chosen]))
        scores.append(torch.cat([score for _, score in chosen]))
    if not pooled:
        best = [score.topk(min(limits.over_levels, len(score))).indices for score in scores]
        return [box[index] for box, index in zip(boxes, best, strict=True)]
    every = torch.cat(scores)
    chosen_R = torch.zeros_like(every, dtype=torch.bool)
    chosen_R[every.topk(min(limits.over_levels, len(every))).indices] = True
    parts = chosen_R.split([len(box) for box in boxes])
    return [box[part] for box, part in zip(boxes, parts, strict=True)]


def _level_proposals(
    anchor_L4: Tensor, logit_BL: Tensor, code_BL4: Tensor, size_B2: Tensor, most: int
) -> list[tuple[Tensor, Tensor]]:
    """Return one level's best boxes and their scores, per image."""
    # In single precision, as in half precision many sigmoids would tie at 1. Image by image, as a
    # CPU rounds the last few elements of a tensor differently.
    score_BL = torch.stack([logit_L.sigmoid() for logit_L in logit_BL])
    score_BN, index_BN = score_BL.topk(min(most, score_BL.shape[1]))
    code_BN4 = code_BL4.gather(1, index_BN[..., None].expand(-1, -1, 4))
    box = decode_boxes(code_BN4.flatten(0, 1), anchor_L4[index_BN.flatten()], RPN_WEIGHTS)
    # A NaN would make the pooling read outside its memory. Such a network's losses are NaN as well,
    # and those end the run with a clear message.
    height_B11, width_B11 = size_B2.T[..., None, None]
    box_BN4 = clip_boxes(box.view_as(code_BN4), height_B11, width_B11).nan_to_num()
    proposals = []
    for box_N4, score_N in zip(box_BN4, score_BN, strict=True):
        keep = pixel_nms(box_N4, score_N, NMS_IOU)[:most]
        proposals.append((box_N4[keep], score_N[keep]))
    return proposals


def rpn_losses(
    anchor_A4: Tensor,
    logit_BA: Tensor,
    code_BA4: Tensor,
    truths: Sequence[Tensor],
    sizes: Sequence[Sequence[int]],
    regions_per_image: int,
) -> dict[str, Tensor]:
    """Return the ``objectness`` and ``rpn_box`` loss per sampled anchor, half positive at most."""
    picked_logits, wanted, box_loss, count = [], [], logit_BA.new_zeros(()), 0
    for logit_A, code_A4, truth_G4, (height, width) in zip(
        logit_BA, code_BA4, truths, sizes, strict=True
    ):
        match_A = match_anchors(anchor_A4, truth_G4, height, width)
        positive, negative = sample_regions(match_A, regions_per_image, regions_per_image // 2)
        picked_logits += [logit_A[positive], logit_A[negative]]
        wanted += [torch.ones_like(picked_logits[-2]), torch.zeros_like(picked_logits[-1])]
        count += len(positive) + len(negative)
        if len(positive):
            target = encode_boxes(truth_G4[match_A[positive]], anchor_A4[positive], RPN_WEIGHTS)
            box_loss = box_loss + F.smooth_l1_loss(
                code_A4[positive], target, beta=BOX_BETA, reduction="sum"
            )
    total = max(count, 1)
    objectness = F.binary_cross_entropy_with_logits(
        torch.cat(picked_logits), torch.cat(wanted), reduction="sum"
    )
    # An image smaller than every anchor has nothing to sample; the head still needs a gradient.
    return {"objectness": objectness / total, "rpn_box": (box_loss + 0 * code_BA4.sum()) / total}
