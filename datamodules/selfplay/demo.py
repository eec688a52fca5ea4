"""The demo's given checkpoint, in the layout of the real one: two small networks and first games.

The networks are files in ``datamodules/selfplay/data``, as the real benchmark's are given too. They
are made by ``python -m tests.tools.minigo_demo_nets``: the start learned from the games below, the
target is a later generation of one run. The games are played by a search without a network, which
bars passing: a search that passes early learns nothing but passing.
"""

import shutil
from pathlib import Path
from typing import Any

from datamodules.selfplay.go.games import Game, SelfPlay, uniform_network
from datamodules.selfplay.go.moves import Rules
from datamodules.selfplay.go.records import write_game

VERSION = "2"
NETS = Path(__file__).parent / "data"
DEVICE_FOLDER = "cpu/2026-01-01-00"
SEED = 5


def demo_parameters(data: Any) -> dict[str, object]:
    """Return the settings that the written bytes depend on."""
    return {"size": data.size, "komi": data.komi, "games": data.games_per_generation}


def write_demo(folder: Path, data: Any) -> None:
    """Write networks and first games."""
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
    """Play games without a network (equal priors, value 0); every move is an example."""
    rules = Rules(
        slow_readouts=32, fast_share=0.0, noise_alpha=10.8 / size**2, soft_plies=2,
        pass_alive_plies=size * 2, resign_low=-2.0, resign_high=-2.0, prune=0,
        max_plies=4 * size**2,
    )  # fmt: skip
    player = SelfPlay(size, komi, 96, rules, seed=SEED, virtual_losses=2, allow_pass=False)
    return player.play(uniform_network, num_games)[:num_games]
