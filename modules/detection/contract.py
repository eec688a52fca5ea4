"""The detectors' contract: a dict of losses in training, a list of detections in evaluation.

In training ``net(*inputs, targets)`` returns a dict of scalar losses; in evaluation
``net(*inputs)`` returns one dict of tensors per image.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from modules.common.check_net import dry_run

DETECTION_KEYS = ("boxes", "scores", "labels")


def check_detector(
    net: nn.Module, inputs: Sequence[Tensor], targets: Any, *, keys: Sequence[str] = DETECTION_KEYS
) -> None:
    """Raise a ValueError unless the network follows the contract on a small batch."""
    name, last = type(net).__name__, int(targets["labels"][0].max())
    with dry_run(net, f"{name} failed on objects of class {last}"):
        losses = net.train()(*inputs, targets)
        detections = net.eval()(*inputs)
    scalars = isinstance(losses, Mapping) and all(loss.ndim == 0 for loss in losses.values())
    if not scalars or not losses:
        raise ValueError(
            f"{name}(*inputs, targets) must return a dict of scalar losses in training"
        )
    complete = all(key in image for image in detections for key in keys)
    if len(detections) != len(inputs[0]) or not complete:
        raise ValueError(
            f"{name}(*inputs) must return {len(inputs[0])} dicts with {', '.join(keys)} in "
            "evaluation"
        )


def check_not_diverged(*outputs: Tensor) -> None:
    """Raise a ValueError if an output is NaN, which passes no threshold and detects nothing."""
    if bool(torch.stack([output.isnan().any() for output in outputs]).any()):
        raise ValueError("the network has diverged: its outputs are NaN")


def sum_of(losses: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([loss.float() for loss in losses.values()]).sum()
