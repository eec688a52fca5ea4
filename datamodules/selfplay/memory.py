"""How much memory a run of Mini Go takes, told before it begins."""

import os
from typing import Any, NamedTuple

from datamodules.selfplay.go.features import PLANES
from datamodules.selfplay.go.games import first_nodes
from datamodules.selfplay.go.tree import node_bytes

GIB = 2**30
# About 200 moves on 19 x 19: a guess, as resignation ends games and no published record was read.
MOVES_PER_POINT = 0.55


class MemoryPlan(NamedTuple):
    """Bytes that one device's process takes beside Python, torch and the network."""

    games: float
    """The window, an epoch's choice of it, and the window again while a checkpoint is written."""
    trees: float
    """Search trees, grown once: a sure network keeps most of its tree after a move."""
    here: float
    """All memory of this machine."""

    def fits(self, devices: int = 1) -> bool:
        """Tell whether this machine has enough.

        Args:
            devices: Processes that play on it.

        Returns:
            True if it has.
        """
        return devices * (self.games + self.trees) <= self.here

    def text(self, devices: int = 1) -> str:
        """Tell a reader.

        Args:
            devices: Processes that play on this machine.

        Returns:
            One line; with advice where memory is too small.
        """
        games, trees, here = (part / GIB for part in self)
        advice = "; fewer --data.workers or --data.games_at_once need less"
        return (
            f"memory: about {games + trees:.1f} GiB per device beside torch's own (games "
            f"{games:.1f}, search trees {trees:.1f}); this machine has {here:.0f} GiB"
            + f" for {devices} devices" * (devices > 1)
            + advice * (not self.fits(devices))
        )


def memory_plan(data: Any) -> MemoryPlan:
    """Count what grows with the settings.

    Args:
        data: The data module.

    Returns:
        The plan.
    """
    points = data.size * data.size
    examples = 1 + (1 - data.rules.fast_share) * MOVES_PER_POINT * points
    example_bytes = PLANES * -(-points // 8) + 4 * (points + 1) + 4
    window = data.window * data.games_per_generation * examples * example_bytes
    nodes = data.workers * 2 * first_nodes(data.games_at_once, data.rules)
    here = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return MemoryPlan(window * (2 + data.train_filter), nodes * node_bytes(data.size), here)
