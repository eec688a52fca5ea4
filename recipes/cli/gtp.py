"""Mini Go's extra command ``gtp``: play against a trained network in any Go client."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from recipes.cli.usage import UsageError

if TYPE_CHECKING:
    import torch

    from modules.minigo.net import DualNet


class _Parser(argparse.ArgumentParser):
    """Errors in one line, as those of all other commands."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"gtp: {message}")


def gtp(args: list[str]) -> int:
    """Speak the Go Text Protocol on standard input and output until ``quit``.

    Args:
        args: Arguments after ``gtp``.

    Returns:
        0.

    Raises:
        ValueError: If the checkpoint holds no dual network, or there is no such device.
        UsageError: If a flag is wrong.
    """
    parser = _Parser(prog="minigo.py gtp", description=__doc__)
    parser.add_argument("--ckpt_path", type=Path, required=True, help="Checkpoint of a run.")
    parser.add_argument("--readouts", type=int, default=100, help="Searches per move.")
    parser.add_argument("--komi", type=float, default=7.5, help="Points that White gets.")
    parser.add_argument("--device", default="cpu", help="Where the network runs.")
    options = parser.parse_args(args)
    # Imported here: torch and the engine take seconds that --help need not wait for.
    from datamodules.selfplay.go.gtp import Player
    from modules.minigo.inference import network_of

    net = read_net(options.ckpt_path)
    player = Player(
        network_of(net, _device(options.device)), net.size, komi=options.komi,
        readouts=options.readouts,
    )  # fmt: skip
    player.serve(sys.stdin, sys.stdout)
    return 0


def _device(name: str) -> torch.device:
    """A device that works here."""
    import torch

    try:
        return torch.zeros(1, device=name).device
    except Exception as error:  # torch raises many kinds, some with many lines
        reason = str(error).partition("\n")[0]
        raise ValueError(f"--device {name}: torch cannot use it here: {reason}") from error


def read_net(path: Path) -> DualNet:
    """The network of a run's checkpoint, whatever its size.

    Args:
        path: ``checkpoints/last.ckpt`` of a run.

    Returns:
        The network.

    Raises:
        ValueError: If the file is missing, damaged or holds another network.
    """
    import torch

    from modules.minigo.net import DualNet

    if not path.is_file():
        raise ValueError(f"--ckpt_path {path}: no such file")
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
            f"--ckpt_path {path}: no checkpoint of a dual network; "
            "a run of this recipe leaves one as checkpoints/last.ckpt"
        ) from error
    return net
