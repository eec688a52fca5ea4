"""Ask a detector for losses and detections before GPU hours are spent on it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

DETECTION_KEYS = ("boxes", "scores", "labels")


def check_detector(
    net: nn.Module, image: Tensor, targets: Any, *, keys: Sequence[str] = DETECTION_KEYS
) -> None:
    """Refuse a network that does not follow the detectors' contract.

    In training ``net(image, targets)`` gives a dict of scalar losses; in evaluation ``net(image)``
    gives one dict of tensors per image. Random state and modes are as before afterwards.

    Args:
        net: The network.
        image: A small batch of images.
        targets: Targets as the data module gives them.
        keys: What every image's detections must have.

    Raises:
        ValueError: One line: what was expected and what came, or the network's own error.
    """
    name, modes = type(net).__name__, [(module, module.training) for module in net.modules()]
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            losses = net.train()(image, targets)
            found = net.eval()(image)
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no message"]
        raise ValueError(f"{name} failed: {type(error).__name__}: {lines[0]}") from error
    finally:
        for module, training in modes:
            module.training = training
    scalars = isinstance(losses, Mapping) and all(loss.ndim == 0 for loss in losses.values())
    if not scalars or not losses:
        raise ValueError(f"{name}(image, targets) must give a dict of scalar losses in training")
    if len(found) != len(image) or any(key not in one for one in found for key in keys):
        raise ValueError(
            f"{name}(image) must give {len(image)} dicts with {', '.join(keys)} in evaluation"
        )
