"""Mini Go's published TensorFlow 1 checkpoints, read into the dual network.

Convolutions turn from (height, width, in, out) to (out, in, height, width), dense layers from
(in, out) to (out, in). Flattening is channel-major on both sides, as the graph is in nchw order.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from modules.common.tensor_bundle import TensorBundle
from modules.minigo.net import DualNet

STEP = "global_step"
MOMENTUM = "/Momentum"
PARTS = {
    "kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias",
    "moving_mean": "running_mean", "moving_variance": "running_var",
}  # fmt: skip


def tensors_by_name(net: DualNet) -> dict[str, Tensor]:
    """Return the net's parameters and running statistics by their TensorFlow names.

    Args:
        net: The dual network.

    Returns:
        The net's own tensors, not copies.
    """
    tensors: dict[str, Tensor] = {}
    for name, layer in net.layers().items():
        norm = isinstance(layer, nn.BatchNorm2d)
        parts = ("gamma", "beta", "moving_mean", "moving_variance") if norm else ("kernel", "bias")
        for part in parts:
            tensor = getattr(layer, PARTS[part])
            if tensor is not None:
                tensors[f"{name}/{part}"] = tensor
    return tensors


def load_bundle(net: DualNet, prefix: Path) -> tuple[dict[str, Tensor], int]:
    """Load weights and running statistics into a net, in place.

    Args:
        net: The network to fill.
        prefix: Checkpoint without its extension.

    Returns:
        Momentum by the net's parameter names (empty if the file has none) and the global step.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If it is not a checkpoint, or one of another net or board size, or has values
            that no trained network has.
    """
    bundle = TensorBundle(prefix)
    wanted = tensors_by_name(net)
    parameters = {id(p): name for name, p in net.named_parameters()}
    momentum: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, tensor in wanted.items():
            if name not in bundle.entries:
                raise ValueError(f"{prefix}: no tensor {name}; not a checkpoint of this network")
            tensor.copy_(_read_as(bundle, name, tensor, net.size))
            if name + MOMENTUM in bundle.entries:
                slot = _read_as(bundle, name + MOMENTUM, tensor, net.size)
                momentum[parameters[id(tensor)]] = slot
    step = int(bundle.read(STEP)) if STEP in bundle.entries else 0
    return momentum, step


def _read_as(bundle: TensorBundle, name: str, like: Tensor, size: int) -> Tensor:
    """Read a tensor in torch's order of axes, with the shape of ``like``."""
    values = bundle.read(name)
    if values.ndim == 4:
        values = values.transpose(3, 2, 0, 1)
    elif values.ndim == 2:
        values = values.T
    if values.shape != tuple(like.shape):
        raise ValueError(
            f"{bundle.prefix}: {name} has shape {values.shape} but the net needs "
            f"{tuple(like.shape)}; is it of another board size than {size} x {size}? A network of "
            "another width starts from its own weights, --init_weights FILE"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{bundle.prefix}: {name} has values that are not finite; fetch it again")
    if name.endswith("moving_variance") and (values < 0).any():
        raise ValueError(f"{bundle.prefix}: {name} has negative values; fetch it again")
    return torch.from_numpy(np.array(values, np.float32))
