"""Estimate of a Mini Go run's memory, reported before it begins."""

import os
from typing import Any, NamedTuple

from datamodules.selfplay.go.features import PLANES
from datamodules.selfplay.go.games import initial_nodes
from datamodules.selfplay.go.tree import node_bytes

GIB = 2**30
# About 200 moves on 19 x 19: an estimate, as resignation ends games; not from a published run.
MOVES_PER_POINT = 0.55


class MemoryPlan(NamedTuple):
    """Bytes that one device's process needs besides Python, torch and the network."""

    games: float
    """The window, an epoch's choice of it, and the window again while a checkpoint is written."""
    trees: float
    """Search trees, grown once: a confident network keeps most of its tree after a move."""
    total: float
    """All memory of this machine."""

    def fits(self, devices: int = 1) -> bool:
        """Return whether this machine has enough memory for some devices."""
        return devices * (self.games + self.trees) <= self.total

    def text(self, devices: int = 1) -> str:
        """Describe the plan in one line, with advice if memory is too small."""
        games, trees, total = (part / GIB for part in self)
        advice = "; reduce --data.workers or --data.games_at_once"
        return (
            f"memory: about {games + trees:.1f} GiB per device besides torch's own (games "
            f"{games:.1f}, search trees {trees:.1f}); this machine has {total:.0f} GiB"
            + f" for {devices} devices" * (devices > 1)
            + advice * (not self.fits(devices))
        )


def searches_per_game(data: Any) -> float:
    """Estimate the searches of a training game: those of a move by the rules, times its moves."""
    rules = data.rules
    per_move = rules.fast_share * rules.fast_readouts + (1 - rules.fast_share) * rules.slow_readouts
    return per_move * MOVES_PER_POINT * data.size * data.size


def memory_plan(data: Any) -> MemoryPlan:
    """Estimate what grows with a data module's settings."""
    points = data.size * data.size
    examples = 1 + (1 - data.rules.fast_share) * MOVES_PER_POINT * points
    example_bytes = PLANES * -(-points // 8) + 4 * (points + 1) + 4
    window = data.window * data.games_per_generation * examples * example_bytes
    nodes = data.workers * 2 * initial_nodes(data.games_at_once, data.rules)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return MemoryPlan(window * (2 + data.train_filter), nodes * node_bytes(data.size), total)
