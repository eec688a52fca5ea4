"""Boxes relative to anchors or proposals, with inclusive corners as in Mask R-CNN's reference.

Letters: N boxes, as x1, y1, x2, y2; widths are x2 - x1 + 1.
"""

import math

import torch
from torch import Tensor

# Of centre and size. Numbers, as copying tensors to a GPU would make the host wait.
RPN_WEIGHTS = (1.0, 1.0)
HEAD_WEIGHTS = (10.0, 5.0)
MAX_LOG_SCALE = math.log(1000 / 16)


def encode_boxes(box_N4: Tensor, reference_N4: Tensor, weights: tuple[float, float]) -> Tensor:
    """Return code_N4: weighted shift of the centre and logarithm of the size ratio."""
    centre, side = _centre_and_side(box_N4)
    own_centre, own_side = _centre_and_side(reference_N4)
    shift, scale = (centre - own_centre) / own_side, (side / own_side).log()
    return torch.cat([shift * weights[0], scale * weights[1]], -1)


def decode_boxes(codes: Tensor, reference_N4: Tensor, weights: tuple[float, float]) -> Tensor:
    """Return the corners that codes (N, ..., 4) represent; sizes grow at most 62.5 times."""
    shape = (len(reference_N4), *[1] * (codes.ndim - 2), 2)
    own_centre, own_side = (part.view(shape) for part in _centre_and_side(reference_N4))
    centre = codes[..., :2] / weights[0] * own_side + own_centre
    scale = (codes[..., 2:] / weights[1]).clamp(max=MAX_LOG_SCALE)
    side = scale.exp() * own_side
    return torch.cat([centre - side / 2, centre + side / 2 - 1], -1)


def clip_boxes(boxes: Tensor, height: Tensor | int, width: Tensor | int) -> Tensor:
    """Clip corners (..., 4) to ``[0, width - 1]`` and ``[0, height - 1]``."""
    x, y = boxes[..., 0::2].clamp(min=0), boxes[..., 1::2].clamp(min=0)
    x, y = x.clamp(max=width - 1), y.clamp(max=height - 1)
    return torch.stack([x, y], -1).flatten(-2)


def _centre_and_side(boxes: Tensor) -> tuple[Tensor, Tensor]:
    side = boxes[..., 2:] - boxes[..., :2] + 1
    return boxes[..., :2] + side / 2, side
