"""A trained network that plays Go over the Go Text Protocol."""

from __future__ import annotations

from pathlib import Path

import torch

from datamodules.selfplay.go.gtp import Player
from modules.common.torch_file import check_sums
from modules.minigo.inference import network_of
from modules.minigo.net import DualNet


def player_of(
    path: Path, *, komi: float, readouts: int, device: str, benson: bool = False
) -> Player:
    """Build a GTP player from a run's checkpoint.

    Args:
        path: ``checkpoints/last.ckpt`` of a run.
        komi: Points that White gets.
        readouts: Searches per move.
        device: Torch device that the network runs on, such as ``cpu`` or ``cuda:0``.
        benson: Score by Benson's pass-alive rule instead of the reference's.

    Returns:
        The player, on the network's board size.

    Raises:
        ValueError: If the file has no dual network, or torch cannot use the device.
    """
    net = read_net(path)
    network = network_of(net, _usable_device(device))
    return Player(network, net.size, komi=komi, readouts=readouts, benson=benson)


def _usable_device(name: str) -> torch.device:
    try:
        return torch.zeros(1, device=name).device
    except Exception as error:  # torch raises many kinds, some with many lines
        reason = str(error).partition("\n")[0]
        raise ValueError(f"--device {name}: torch cannot use it here: {reason}") from error


def read_net(path: Path) -> DualNet:
    """Read a dual network of any size from a run's checkpoint; a ValueError says what is wrong."""
    if not path.is_file():
        raise ValueError(f"--ckpt_path {path}: does not exist")
    check_sums(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state = {
            name.removeprefix("net."): tensor
            for name, tensor in content["state_dict"].items()
            if name.startswith("net.")
        }
        hidden, points = state["value_fc1.weight"].shape
        blocks = sum(name.endswith("conv1.weight") for name in state)
        net = DualNet(
            size=round(points**0.5), width=state["conv.weight"].shape[0], blocks=blocks,
            fc_width=hidden,
        )  # fmt: skip
        net.load_state_dict(state)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise ValueError(
            f"--ckpt_path {path}: not a checkpoint of a dual network; "
            "a run of this recipe writes one to checkpoints/last.ckpt"
        ) from error
    return net
