"""From the outputs of SSD's head to the loss in training and to boxes in evaluation.

Letters: B batch, A default boxes, K classes with background as class 0, M padded ground truth,
N candidates of a class.

Source:
    mlcommons/training (v1.0), single_stage_detector/ssd/base_model.py and utils.py. Differs: one
    sort; a positive never counts as a negative where an image has too few of these.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.detection.boxes import grouped_nms
from modules.detection.contract import check_not_diverged
from modules.detection.ssd.default_boxes import decode, encode, match

NEGATIVES_PER_POSITIVE = 3
LEAST_SCORE = 0.05
SUPPRESSED_FROM_IOU = 0.5
CANDIDATES_PER_CLASS = DETECTIONS_PER_IMAGE = 200


def ssd_loss(
    location_B4A: Tensor,
    logits_BKA: Tensor,
    default_A4: Tensor,
    box_BM4: Tensor,
    label_BM: Tensor,
) -> dict[str, Tensor]:
    """Return the ``box`` and ``class`` loss with three hard negatives per positive.

    Means over the images in float32. Every image's loss is divided by its own number of positives;
    an image without any counts 0.
    """
    label_BA, target_BA4 = match(default_A4, box_BM4, label_BM)
    positive_BA = label_BA > 0
    positives_B = positive_BA.sum(1)
    # Negatives encode themselves, so that the logarithm of a meaningless box cannot be NaN.
    own_BA4 = decode(default_A4, torch.zeros_like(target_BA4))
    target_BA4 = torch.where(positive_BA[..., None], target_BA4, own_BA4)
    distance_BA = F.smooth_l1_loss(
        location_B4A.float().transpose(1, 2), encode(default_A4, target_BA4), reduction="none"
    ).sum(2)
    entropy_BA = F.cross_entropy(logits_BKA.float(), label_BA, reduction="none")
    hardest_BA = entropy_BA.masked_fill(positive_BA, 0).sort(1, descending=True).values
    rank_A = torch.arange(label_BA.shape[1], device=label_BA.device)
    chosen_BA = rank_A < NEGATIVES_PER_POSITIVE * positives_B[:, None]
    box_B = (distance_BA * positive_BA).sum(1)
    class_B = (entropy_BA * positive_BA).sum(1) + (hardest_BA * chosen_BA).sum(1)
    # Without positives both sums are 0 already; the floor only avoids 0 / 0.
    divisor_B = positives_B.float().clamp(min=1e-6)
    return {"box": (box_B / divisor_B).mean(), "class": (class_B / divisor_B).mean()}


@torch.no_grad()
def ssd_detections(
    location_B4A: Tensor, logits_BKA: Tensor, default_A4: Tensor
) -> list[dict[str, Tensor]]:
    """Return up to 200 detections per image, best first: ``boxes``, ``scores``, ``labels``.

    Boxes are corners in fractions of the image, not clipped; labels count from 1.
    """
    box_BA4 = decode(default_A4, location_B4A.float().transpose(1, 2))
    score_BKA = logits_BKA.float().softmax(1)[:, 1:]
    check_not_diverged(score_BKA, location_B4A)
    batch, classes = score_BKA.shape[:2]
    most = int((score_BKA > LEAST_SCORE).sum(2).max().clamp(max=CANDIDATES_PER_CLASS))
    score_BKN, which_BKN = score_BKA.topk(most, dim=2)
    which = which_BKN.reshape(batch, -1, 1).expand(-1, -1, 4)
    box_BKN4 = box_BA4.gather(1, which).view(batch, classes, most, 4)
    valid = score_BKN > LEAST_SCORE
    keep = grouped_nms(box_BKN4.flatten(0, 1), valid.flatten(0, 1), SUPPRESSED_FROM_IOU)
    keep_BKN = keep.view(batch, classes, most)
    label_KN = torch.arange(1, classes + 1, device=keep.device)[:, None].expand(classes, most)
    detections = []
    for box_KN4, score_KN, keep_KN in zip(box_BKN4, score_BKN, keep_BKN, strict=True):
        score_N = score_KN[keep_KN]
        order = score_N.argsort(descending=True, stable=True)[:DETECTIONS_PER_IMAGE]
        detections.append(
            {
                "boxes": box_KN4[keep_KN][order],
                "scores": score_N[order],
                "labels": label_KN[keep_KN][order],
            }
        )
    return detections
