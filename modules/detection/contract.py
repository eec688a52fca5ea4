"""The detectors' contract: a dict of losses in training, a list of detections in evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from modules.common.check_net import dry_run

DETECTION_KEYS = ("boxes", "scores", "labels")


def check_detector(
    net: nn.Module, inputs: Sequence[Tensor], targets: Any, *, keys: Sequence[str] = DETECTION_KEYS
) -> None:
    """Refuse a network that does not follow the detectors' contract.

    In training ``net(*inputs, targets)`` gives a dict of scalar losses; in evaluation
    ``net(*inputs)`` gives one dict of tensors per image. Trying both leaves no trace.

    Args:
        net: The network.
        inputs: A small batch: the images and what else the network takes.
        targets: Targets as the data module gives them.
        keys: What every image's detections must have.

    Raises:
        ValueError: One line: what was expected and what came, or the network's own error.
    """
    name = type(net).__name__
    try:
        with dry_run(net):
            losses = net.train()(*inputs, targets)
            found = net.eval()(*inputs)
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no message"]
        raise ValueError(f"{name} failed: {type(error).__name__}: {lines[0]}") from error
    scalars = isinstance(losses, Mapping) and all(loss.ndim == 0 for loss in losses.values())
    if not scalars or not losses:
        raise ValueError(f"{name}(*inputs, targets) must give a dict of scalar losses in training")
    if len(found) != len(inputs[0]) or any(key not in one for one in found for key in keys):
        raise ValueError(
            f"{name}(*inputs) must give {len(inputs[0])} dicts with {', '.join(keys)} in evaluation"
        )


def refuse_diverged(*outputs: Tensor) -> None:
    """Refuse outputs that are no numbers: no threshold holds for them, so nothing would be found.

    Args:
        *outputs: Any shapes.

    Raises:
        ValueError: If one is NaN.
    """
    if bool(torch.stack([output.isnan().any() for output in outputs]).any()):
        raise ValueError("the network has diverged: what it finds are no numbers (NaN)")


def sum_of(losses: Mapping[str, Tensor]) -> Tensor:
    """Total of a detector's losses.

    Args:
        losses: Name -> scalar.

    Returns:
        float32 scalar.
    """
    return torch.stack([loss.float() for loss in losses.values()]).sum()
