"""The games that an epoch of Mini Go trains on, and how they are kept in a checkpoint.

Shapes: E examples, B of one batch, n points per side, A = n*n + 1 actions.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.common.sampling import SampleKey
from datamodules.selfplay.go.features import PLANES, symmetries, unpacked
from datamodules.selfplay.go.players import PlayersState
from datamodules.selfplay.go.records import Examples

WINDOW_STREAM, SYMMETRY_STREAM = 72, 73


class Generation(NamedTuple):
    """Games played by one model."""

    model: int
    examples: Examples
    starts: np.ndarray
    """(games + 1,) int64: examples of game g are ``starts[g]`` to ``starts[g + 1]``."""

    @property
    def games(self) -> int:
        """Number of games."""
        return len(self.starts) - 1


class WindowExamples(Dataset[Any]):
    """Examples in the order of training, each turned by a random symmetry.

    Args:
        examples: E of them.
        size: Points per side.
        seed: The run's seed.
    """

    def __init__(self, examples: Examples, size: int, seed: int) -> None:
        self.examples, self.size, self.seed = examples, size, seed
        self._turns = symmetries(size).astype(np.int64)

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.examples.outcome)

    def __getitems__(self, keys: list[SampleKey]) -> dict[str, Tensor]:
        """One batch.

        Args:
            keys: Numbers of examples; all of one epoch.

        Returns:
            ``planes`` (B, 13, n, n) uint8, ``pi`` (B, A) float32 and ``outcome`` (B,) float32.
        """
        rows = np.array([key.index for key in keys])
        drawn = np.random.default_rng([SYMMETRY_STREAM, self.seed, keys[0].epoch])
        turn = drawn.integers(8, size=len(self))[rows]
        points = self.size * self.size
        planes = np.empty((len(rows), PLANES, points), np.uint8)
        pi = np.empty((len(rows), points + 1), np.float32)
        # One symmetry after the other: six times as fast as one array of indices for all.
        for number, order in enumerate(self._turns):
            mine = np.flatnonzero(turn == number)
            whole = unpacked(self.examples.planes[rows[mine]], self.size)
            planes[mine] = np.take(whole, order[:-1], axis=2)
            pi[mine] = np.take(self.examples.pi[rows[mine]], order, axis=1)
        return {
            "planes": torch.from_numpy(planes.reshape(-1, PLANES, self.size, self.size)),
            "pi": torch.from_numpy(pi),
            "outcome": torch.from_numpy(self.examples.outcome[rows]),
        }


def generation(model: int, games: Sequence[Examples]) -> Generation:
    """Games of one model, joined.

    Args:
        model: The model's number.
        games: Examples of each game, one game at least.

    Returns:
        The generation.
    """
    starts = np.cumsum([0, *(len(game.outcome) for game in games)]).astype(np.int64)
    return Generation(model, joined(games), starts)


def extended(old: Generation, games: Sequence[Examples]) -> Generation:
    """A generation with further games of its model.

    Args:
        old: The generation.
        games: Examples of each further game.

    Returns:
        A new generation, or the old one if there are no games.
    """
    if not games:
        return old
    more = generation(old.model, games)
    starts = np.concatenate([old.starts, more.starts[1:] + old.starts[-1]])
    return Generation(old.model, joined([old.examples, more.examples]), starts)


def choose(
    window: Sequence[Generation], num_games: int, keep: float, seed: int, epoch: int
) -> Examples:
    """Draw what an epoch trains on: games of every generation, then examples of these games.

    Args:
        window: The newest generations.
        num_games: Games to take of each, at random.
        keep: Probability of an example of these games to be kept.
        seed: The run's seed.
        epoch: Number of the epoch, from 0.

    Returns:
        The examples in random order, a pure function of the arguments.

    Raises:
        ValueError: If a generation has fewer games.
    """
    rng = np.random.default_rng([WINDOW_STREAM, seed, epoch])
    drawn = []
    for model, _, starts in window:
        if len(starts) <= num_games:
            raise ValueError(
                f"model {model} has {len(starts) - 1} games but a generation "
                f"needs {num_games} (data.games_per_generation)"
            )
        picked = rng.permutation(len(starts) - 1)[:num_games]
        rows = np.concatenate([np.arange(starts[game], starts[game + 1]) for game in picked])
        drawn.append(rows[rng.random(len(rows)) < keep])
    places = np.argsort(rng.permutation(sum(map(len, drawn))))
    parts = np.split(places, np.cumsum([len(rows) for rows in drawn])[:-1])
    arrays = zip(*(generation.examples for generation in window), strict=True)
    return Examples(*(_placed(array, drawn, parts) for array in arrays))


def _placed(
    arrays: Sequence[np.ndarray], rows: Sequence[np.ndarray], places: Sequence[np.ndarray]
) -> np.ndarray:
    """Rows of several arrays, each put in its place, as ordering them afterwards takes a copy."""
    whole = np.empty((sum(map(len, rows)), *arrays[0].shape[1:]), arrays[0].dtype)
    for array, taken, to in zip(arrays, rows, places, strict=True):
        whole[to] = array[taken]
    return whole


def joined(parts: Sequence[Examples]) -> Examples:
    """Examples behind one another.

    Args:
        parts: One or more.

    Returns:
        All of them.
    """
    return Examples(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def pack_generation(whole: Generation) -> dict[str, Any]:
    """A generation as a checkpoint keeps it.

    Args:
        whole: The generation; its memory is shared, not copied.

    Returns:
        Model and games; see ``unpack_generation``.
    """
    return {"model": whole.model, "games": _tensors(np.diff(whole.starts), whole.examples)}


def unpack_generation(kept: dict[str, Any]) -> Generation:
    """A generation of a checkpoint.

    Args:
        kept: What ``pack_generation`` gave; its memory is shared.

    Returns:
        The generation.
    """
    games = kept["games"]
    starts = np.concatenate([[0], np.cumsum(games["lengths"].numpy())])
    examples = Examples(*(games[name].numpy() for name in Examples._fields))
    return Generation(int(kept["model"]), examples, starts)


def _tensors(lengths: np.ndarray, examples: Examples) -> dict[str, Tensor]:
    """Games as tensors."""
    arrays = {"lengths": lengths, **examples._asdict()}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def pack(games: Sequence[Examples]) -> dict[str, Tensor]:
    """Single games as a checkpoint keeps them.

    Args:
        games: Examples of each game; may be empty.

    Returns:
        Tensors by name; see ``unpack``.
    """
    lengths = np.array([len(game.outcome) for game in games], np.int64)
    return _tensors(lengths, joined(games)) if games else {"lengths": torch.from_numpy(lengths)}


def unpack(packed: dict[str, Tensor]) -> list[Examples]:
    """Games of a checkpoint.

    Args:
        packed: What ``pack`` gave.

    Returns:
        Examples of each game.
    """
    lengths = packed["lengths"].numpy()
    if not len(lengths):
        return []
    cuts = np.cumsum(lengths)[:-1]
    split = (np.split(packed[name].numpy(), cuts) for name in Examples._fields)
    return [Examples(*game) for game in zip(*split, strict=True)]


def pack_players(state: PlayersState) -> dict[str, Any]:
    """Running games as a checkpoint keeps them.

    Args:
        state: Those of one rank.

    Returns:
        Tensors by name.
    """
    workers = [{name: torch.from_numpy(a) for name, a in w.items()} for w in state.workers]
    return {"workers": workers, "surplus": pack(state.surplus)}


def unpack_players(packed: dict[str, Any]) -> PlayersState:
    """Running games of a checkpoint.

    Args:
        packed: What ``pack_players`` gave.

    Returns:
        The games of one rank.
    """
    workers = [{name: t.numpy() for name, t in w.items()} for w in packed["workers"]]
    return PlayersState(workers, unpack(packed["surplus"]))


def players_shape(states: Sequence[PlayersState]) -> tuple[int, int, int]:
    """Who can go on with kept games.

    Args:
        states: Those of each rank.

    Returns:
        Ranks, workers and games at once.
    """
    return len(states), len(states[0].workers), len(states[0].workers[0]["plies"])
