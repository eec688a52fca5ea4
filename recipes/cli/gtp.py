"""The command ``gtp``: play against a trained network in any Go client."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import NoReturn

from recipes.cli.usage import UsageError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"gtp: {message}")


def gtp(args: list[str]) -> int:
    """Play against a trained network in any Go client (GTP 2)."""
    parser = _Parser(
        prog="minigo.py gtp",
        description="Play against a trained network: GTP 2 on standard input and output.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--ckpt_path",
        type=Path,
        required=True,
        default=argparse.SUPPRESS,
        help="Checkpoint of a run.",
    )
    parser.add_argument("--readouts", type=int, default=100, help="Searches per move.")
    parser.add_argument("--komi", type=float, default=7.5, help="Points that White gets.")
    parser.add_argument("--device", default="cpu", help="Device of the network, such as cuda.")
    parser.add_argument("--benson", action="store_true", help="Score by Benson's pass-alive rule.")
    options = parser.parse_args(args)
    # Imported here: torch and the engine take seconds that --help need not wait for.
    from modules.minigo.gtp import player_of

    player = player_of(
        options.ckpt_path, komi=options.komi, readouts=options.readouts, device=options.device,
        benson=options.benson,
    )  # fmt: skip
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):  # a controller may send any bytes
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")
    player.serve(sys.stdin, sys.stdout)
    return 0
