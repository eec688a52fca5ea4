"""Which devices compute in float64."""

import torch


def has_float64(device: torch.device) -> bool:
    """Whether a device knows float64; Apple's GPUs do not, and of others it is not assumed."""
    return device.type in ("cpu", "cuda", "meta")
