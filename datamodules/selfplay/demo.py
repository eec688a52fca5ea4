"""The demo's given checkpoint, in the layout of the real one: two small networks and first games.

The networks lie in ``datamodules/selfplay/data``, as the real benchmark's are given files too. They
are made by ``python -m tests.tools.minigo_demo_nets``: the start learned from the games below, the
target is a later generation of one run. The games are played by a search without a network, which
bars passing: a search that passes early learns nothing but passing.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.selfplay.go.games import Game, SelfPlay
from datamodules.selfplay.go.moves import Rules
from datamodules.selfplay.go.records import write_game

VERSION = "1"
NETS = Path(__file__).parent / "data"
DEVICE_FOLDER = "cpu/2026-01-01-00"
SEED = 5


def demo_parameters(data: Any) -> dict[str, object]:
    """What the written bytes depend on.

    Args:
        data: The data module.

    Returns:
        Values by name.
    """
    return {"size": data.size, "komi": data.komi, "games": data.games_per_generation}


def write_demo(folder: Path, data: Any) -> None:
    """Write networks and first games.

    Args:
        folder: Empty folder.
        data: The data module, for board size, komi and number of games.

    Raises:
        ValueError: If the given networks are of another board size than the data module's.
    """
    if data.size != 5:
        raise ValueError(
            f"data.size is {data.size}, but the demo's networks are for 5; use the demo preset "
            "or name a data.root"
        )
    (folder / "work_dir").mkdir()
    for name, target in (
        ("start", folder / "work_dir" / "model.ckpt-0"),
        ("target", folder / "target"),
    ):
        for ending in (".index", ".data-00000-of-00001"):
            shutil.copyfile(NETS / f"{name}{ending}", target.with_name(target.name + ending))
    games = folder / "data" / "selfplay" / "000000" / DEVICE_FOLDER
    games.mkdir(parents=True)
    for number, game in enumerate(first_games(data.size, data.komi, data.games_per_generation)):
        write_game(games / f"{number:06d}.tfrecord.zz", game)


def first_games(size: int, komi: float, num_games: int) -> list[Game]:
    """Games of a search that has no network: equal priors, value 0.

    Args:
        size: Points per side.
        komi: Points that White gets.
        num_games: Games to finish.

    Returns:
        The games; every move is an example.
    """
    rules = Rules(
        slow_readouts=32, fast_share=0.0, noise_alpha=10.8 / size**2, soft_plies=2,
        pass_alive_plies=size * 2, resign_low=-2.0, resign_high=-2.0, prune=0,
        max_plies=4 * size**2,
    )  # fmt: skip
    player = SelfPlay(size, komi, 96, rules, seed=SEED, virtual_losses=2, allow_pass=False)
    return player.play(_knows_nothing, num_games)[:num_games]


def _knows_nothing(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equal priors and value 0."""
    actions = planes.shape[2] ** 2 + 1
    priors = np.full((len(planes), actions), 1.0 / actions, np.float32)
    return priors, np.zeros(len(planes), np.float32)
