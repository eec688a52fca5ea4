"""The games that an epoch of Mini Go trains on, and their form in a checkpoint.

Shapes: E examples, B of one batch, n points per side, A = n*n + 1 actions.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.common.sampling import SampleKey
from datamodules.selfplay.go.features import PLANES, symmetries, unpack_planes
from datamodules.selfplay.go.players import PlayersState
from datamodules.selfplay.go.records import Examples

WINDOW_STREAM, SYMMETRY_STREAM = 72, 73


class Generation(NamedTuple):
    model: int
    examples: Examples
    starts: np.ndarray
    """(games + 1,) int64: the examples of game g are ``starts[g]`` to ``starts[g + 1]``."""

    @property
    def games(self) -> int:
        return len(self.starts) - 1


class WindowExamples(Dataset[Any]):
    """Examples in training order, each under a random symmetry drawn from the run's seed."""

    def __init__(self, examples: Examples, size: int, seed: int) -> None:
        self.examples, self.size, self.seed = examples, size, seed
        self._turns = symmetries(size).astype(np.int64)

    def __len__(self) -> int:
        return len(self.examples.outcome)

    def __getitems__(self, keys: list[SampleKey]) -> dict[str, Tensor]:
        """Return one batch of one epoch's keys.

        ``planes`` (B, 13, n, n) uint8, ``pi`` (B, A) float32 and ``outcome`` (B,) float32.
        """
        rows = np.array([key.index for key in keys])
        turn = draw_symmetries([SYMMETRY_STREAM, self.seed, keys[0].epoch], rows)
        points = self.size * self.size
        planes = np.empty((len(rows), PLANES, points), np.uint8)
        pi = np.empty((len(rows), points + 1), np.float32)
        # One symmetry at a time: six times as fast as one array of indices for all.
        for number, order in enumerate(self._turns):
            mine = np.flatnonzero(turn == number)
            whole = unpack_planes(self.examples.planes[rows[mine]], self.size)
            planes[mine] = np.take(whole, order[:-1], axis=2)
            pi[mine] = np.take(self.examples.pi[rows[mine]], order, axis=1)
        return {
            "planes": torch.from_numpy(planes.reshape(-1, PLANES, self.size, self.size)),
            "pi": torch.from_numpy(pi),
            "outcome": torch.from_numpy(self.examples.outcome[rows]),
        }


def draw_symmetries(seed: Sequence[int], rows: np.ndarray) -> np.ndarray:
    """Draw one of 8 symmetries for each of some rows, as if all rows of the epoch were drawn.

    A batch must not depend on the ones before it, nor cost more in a larger window.

    Args:
        seed: Words of the stream.
        rows: (B,) int, not negative, in any order; the draws cover their range only.

    Returns:
        (B,) int64 in [0, 8).
    """
    first = int(rows.min()) & ~1  # each step of the generator gives two draws
    draws = np.random.Generator(np.random.PCG64(seed).advance(first // 2))
    return draws.integers(8, size=int(rows.max()) + 1 - first)[rows - first]


def make_generation(model: int, games: Sequence[Examples]) -> Generation:
    """Join one model's games, at least one, into a generation."""
    starts = np.cumsum([0, *(len(game.outcome) for game in games)]).astype(np.int64)
    return Generation(model, concatenate_examples(games), starts)


def extend_generation(old: Generation, games: Sequence[Examples]) -> Generation:
    """Return a generation with further games of its model."""
    if not games:
        return old
    more = make_generation(old.model, games)
    starts = np.concatenate([old.starts, more.starts[1:] + old.starts[-1]])
    return Generation(old.model, concatenate_examples([old.examples, more.examples]), starts)


def choose_examples(
    window: Sequence[Generation], num_games: int, keep: float, seed: int, epoch: int
) -> Examples:
    """Draw an epoch's examples: games of every generation, then examples of these games.

    Args:
        window: The newest generations.
        num_games: Games to draw from each; from a smaller one all are taken.
        keep: Probability of keeping an example of these games.
        seed: The run's seed.
        epoch: Number of the epoch, from 0.

    Returns:
        The examples in random order, a pure function of the arguments.
    """
    rng = np.random.default_rng([WINDOW_STREAM, seed, epoch])
    drawn = []
    for _, _, starts in window:
        picked = rng.permutation(len(starts) - 1)[:num_games]
        rows = np.concatenate([np.arange(starts[game], starts[game + 1]) for game in picked])
        drawn.append(rows[rng.random(len(rows)) < keep])
    # The inverse of the shuffle: where each row goes, so that rows are copied once only.
    positions = np.argsort(rng.permutation(sum(map(len, drawn))))
    parts = np.split(positions, np.cumsum([len(rows) for rows in drawn])[:-1])
    arrays = zip(*(generation.examples for generation in window), strict=True)
    return Examples(*(_gather(array, drawn, parts) for array in arrays))


def _gather(
    arrays: Sequence[np.ndarray], rows: Sequence[np.ndarray], positions: Sequence[np.ndarray]
) -> np.ndarray:
    """Gather rows of several arrays straight into their final order, which saves a copy."""
    whole = np.empty((sum(map(len, rows)), *arrays[0].shape[1:]), arrays[0].dtype)
    for array, taken, to in zip(arrays, rows, positions, strict=True):
        whole[to] = array[taken]
    return whole


def concatenate_examples(parts: Sequence[Examples]) -> Examples:
    return Examples(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def pack_generation(generation: Generation) -> dict[str, Any]:
    """Convert a generation to its form in a checkpoint; shares memory."""
    return {
        "model": generation.model,
        "games": _as_tensors(np.diff(generation.starts), generation.examples),
    }


def unpack_generation(packed: dict[str, Any]) -> Generation:
    """Undo ``pack_generation``; shares memory."""
    games = packed["games"]
    starts = np.concatenate([[0], np.cumsum(games["lengths"].numpy())])
    examples = Examples(*(games[name].numpy() for name in Examples._fields))
    return Generation(int(packed["model"]), examples, starts)


def _as_tensors(lengths: np.ndarray, examples: Examples) -> dict[str, Tensor]:
    arrays = {"lengths": lengths, **examples._asdict()}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def pack_games(games: Sequence[Examples]) -> dict[str, Tensor]:
    """Convert single games, possibly none, to tensors."""
    lengths = np.array([len(game.outcome) for game in games], np.int64)
    if not games:
        return {"lengths": torch.from_numpy(lengths)}
    return _as_tensors(lengths, concatenate_examples(games))


def unpack_games(packed: dict[str, Tensor]) -> list[Examples]:
    """Undo ``pack_games``."""
    lengths = packed["lengths"].numpy()
    if not len(lengths):
        return []
    cuts = np.cumsum(lengths)[:-1]
    split = (np.split(packed[name].numpy(), cuts) for name in Examples._fields)
    return [Examples(*game) for game in zip(*split, strict=True)]


def pack_players(state: PlayersState) -> dict[str, Any]:
    """Convert one rank's running games to tensors."""
    workers = [{name: torch.from_numpy(a) for name, a in w.items()} for w in state.workers]
    return {"workers": workers, "surplus": pack_games(state.surplus)}


def unpack_players(packed: dict[str, Any]) -> PlayersState:
    """Undo ``pack_players``."""
    workers = [{name: t.numpy() for name, t in w.items()} for w in packed["workers"]]
    return PlayersState(workers, unpack_games(packed["surplus"]))


def players_shape(states: Sequence[PlayersState]) -> tuple[int, int, int]:
    """Return ranks, workers and games at once; only the same shape can resume these games."""
    return len(states), len(states[0].workers), len(states[0].workers[0]["plies"])
