"""Mini Go's side of the ``speed`` command: synthetic batches and self-play."""

import time
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from datamodules.selfplay.go.features import PLANES
from datamodules.selfplay.go.games import Network
from datamodules.selfplay.go.players import playing_speed
from datamodules.selfplay.memory import memory_plan, searches_per_game


class SpeedOfPlay:
    """Synthetic batches, and how fast games are played; a part of the data module."""

    evaluation_sample: ClassVar[str] = "move"
    grows_in_main_memory: ClassVar[bool] = True
    """Search trees are not on the device."""
    speed_plies: ClassVar[int] = 2
    """Moves of each game of a match that ``speed`` plays."""

    def use_synthetic_data(self: Any, memory: float) -> list[str]:
        """Play without given games and networks, with as many games at once as fit into memory."""
        self.synthetic, closed = True, self.games_at_once
        while self.games_at_once > 1 and memory_plan(self).trees > memory:
            self.games_at_once //= 2
        used = self.games_at_once
        return [f"games at once {closed} -> {used} (1/{closed / used:.3g})"] * (used < closed)

    def synthetic_batch(self: Any) -> dict[str, Tensor]:
        """Return a random training batch on the CPU, for warm-up and speed tests."""
        actions = self.size * self.size + 1
        return {
            "planes": torch.from_numpy(_positions(self.batch_size, self.size)),
            "pi": torch.softmax(torch.randn(self.batch_size, actions), dim=1),
            "outcome": torch.randint(0, 2, (self.batch_size,)).float() * 2 - 1,
        }

    def synthetic_evaluation_batch(self, size: int) -> tuple[Tensor, int]:
        """Return the numbers of ``size`` games, of which ``speed_plies`` moves each count."""
        return torch.arange(size), size * self.speed_plies

    def speed_figures(self: Any, seconds: float = 5.0) -> dict[str, float]:
        """Measure how fast this rank's workers play with the module's network.

        Args:
            seconds: How long they play, twice; the second time counts.

        Returns:
            Searches per second with all workers; evaluations per second of the network alone, in
            batches of one worker; games per second, from the searches that a game takes by the
            rules and an assumed number of moves; these searches.
        """
        assert self.playing is not None, "the module sets the network"
        network = self.playing()
        searches = playing_speed(self._new_workers(), network, seconds)
        per_game = searches_per_game(self)
        return {
            "searches_per_second": searches,
            "evaluations_per_second": _evaluation_speed(
                network, _positions(self.games_at_once * self.virtual_losses, self.size), seconds
            ),
            "games_per_second": searches / per_game,
            "searches_per_game": per_game,
        }


def _positions(number: int, size: int) -> np.ndarray:
    """Return random planes (B, 13, n, n) uint8."""
    return np.random.default_rng(0).integers(0, 2, (number, PLANES, size, size), dtype=np.uint8)


def _evaluation_speed(network: Network, planes: np.ndarray, seconds: float) -> float:
    """Measure positions per second of the network alone, after an untimed batch."""
    network(planes)
    batches, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        network(planes)
        batches += 1
    return batches * len(planes) / passed
