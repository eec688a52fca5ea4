"""Games of a network against itself, many at once, and matches between two networks.

One worker is one thread: its compiled parts release the interpreter lock, so several workers
play at the same time. B positions, A actions.
"""

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numba import njit

from datamodules.selfplay.go import board as go
from datamodules.selfplay.go import is_compiled, search
from datamodules.selfplay.go import moves as mv
from datamodules.selfplay.go import tree as mcts
from datamodules.selfplay.go.features import PLANES, pack_planes

Network = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Maps planes (B, 13, n, n) uint8 to priors (B, A) and values (B,), float32, Black's view."""

Example = tuple[np.ndarray, np.ndarray, float, int]
"""Planes as bits, pi, root value (Black's view) and root visits of one move."""

# Self-play's descents of one tree per batch have no bound but the search's target.
NO_LIMIT = 2**31
# More than one search makes: a confident network keeps most of its tree after a move.
SPARE_NODES = 128
# State of a running game beyond its tree and moves.
KEPT = ("target", "slow", "noise", "resign", "random", "passes", "barred")


@dataclass(frozen=True)
class Game:
    """A finished game and its training examples (E of them)."""

    size: int
    komi: float
    moves: np.ndarray
    """(plies,) int16 actions."""
    outcome: float
    """1.0 if Black won, -1.0 if White did."""
    resigned: bool
    planes: np.ndarray
    """(E, 13, K) uint8: bits, see ``features.pack_planes``."""
    pi: np.ndarray
    """(E, A) float32."""
    q: np.ndarray
    """(E,) float32 search values, Black's view."""
    n: np.ndarray
    """(E,) int64 search visits."""


@njit(nogil=True, cache=True)
def _select_all(
    trees: mcts.Trees,
    targets: np.ndarray,
    num_leaves: int,
    tries: int,
    leaves: mcts.Leaves,
    first: int,
    at: int,
) -> tuple[int, int]:
    """Select leaves of all trees from ``first`` on whose search is not done.

    Returns the tree for which nodes ran out, to continue with, and the next free slot. Every tree
    keeps a node for its move.
    """
    for tree in range(first, len(targets)):
        needed = search.nodes_needed(trees, tree, targets[tree], num_leaves, tries)
        if trees.top[0] < needed + len(targets):
            return tree, at
        at = search.select(trees, tree, targets[tree], num_leaves, tries, leaves, at)
    return len(targets), at


def _select(
    trees: mcts.Trees, targets: np.ndarray, num_leaves: int, tries: int, leaves: mcts.Leaves
) -> tuple[mcts.Trees, int]:
    """Select leaves of all trees; return the trees, which may have grown, and their number."""
    tree = at = 0
    while True:
        tree, at = _select_all(trees, targets, num_leaves, tries, leaves, tree, at)
        if tree == len(targets):
            return trees, at
        trees = mcts.grow(trees)


def initial_nodes(games_at_once: int, rules: mv.Rules) -> int:
    """Return the number of nodes that a worker's trees start with; it doubles when they run out.

    Args:
        games_at_once: Games in progress.
        rules: Self-play settings.

    Returns:
        The number of nodes.
    """
    return games_at_once * (SPARE_NODES + rules.slow_readouts)


class SelfPlay:
    """The running games of one worker.

    Args:
        size: Points per side, 5 to 19.
        komi: Points that White gets.
        games_at_once: Games in progress; their leaves form one batch.
        rules: Self-play settings.
        seed: Seed of the worker; each game derives its own from it and the game's number.
        virtual_losses: Leaves of one game in a batch.
        allow_pass: If False, a search passes only where no other move is legal.
        benson: Benson's pass-alive rule instead of the reference's.
    """

    def __init__(
        self, size: int, komi: float, games_at_once: int, rules: mv.Rules, *, seed: int,
        virtual_losses: int = 4, allow_pass: bool = True, benson: bool = False,
    ) -> None:  # fmt: skip
        self.size, self.komi, self.rules = size, komi, rules
        self.virtual_losses = virtual_losses
        nodes = initial_nodes(games_at_once, rules)
        self._trees = mcts.make_trees(size, games_at_once, nodes, komi)
        self._trees.allow_pass[0], self._trees.benson[0] = allow_pass, benson
        self._games = mv.make_games(games_at_once, rules.max_plies)
        self._events = mv.make_events(games_at_once, size)
        self._leaves = mcts.make_leaves(size, games_at_once * virtual_losses)
        self._examples: list[list[Example]] = [[] for _ in range(games_at_once)]
        self._seed, self._begun = seed, 0
        self._tree_seeds = np.zeros(games_at_once, np.uint64)
        self.readouts = self.steps = 0
        self.stopped = False
        for game in range(games_at_once):
            self._begin(game)

    def play(self, network: Network, num_games: int) -> list[Game]:
        """Play until a number of games have finished; the others stay as they are.

        Args:
            network: Evaluates positions; may differ from the previous call's.
            num_games: Games to finish; a few more may be returned.

        Returns:
            The finished games, in the order in which they ended.

        Raises:
            CancelledError: If ``stopped`` was set meanwhile.
        """
        finished: list[Game] = []
        self.steps = 0
        while len(finished) < num_games:
            finished += self.step(network)
        return finished

    def play_ahead(self, network: Network, share: float) -> list[Game]:
        """Play ``share`` times the batches of the last ``play``; return the games that ended."""
        batches = int(share * self.steps)
        return [game for _ in range(batches) for game in self.step(network)]

    def restart_searches(self) -> None:
        """Restart every search in progress, so that no value of an old network remains.

        The games keep their positions. A search still makes as many visits as its target.
        """
        for game in range(len(self._examples)):
            mcts.clear_search(self._trees, game)
        self._games.noise[:] = self._games.slow

    def state(self) -> dict[str, np.ndarray]:
        """Return what ``restore`` needs; first axis over running games or over their examples."""
        plies = self._trees.info[self._trees.root, go.PLIES]
        examples = [example for kept in self._examples for example in kept]
        planes, pi, q, n = _example_arrays(examples, self.size)
        return {
            "seed": np.array([self._seed], np.uint64).view(np.int64),
            "begun": np.array([self._begun]),
            "tree_seeds": _signed(self._tree_seeds),
            "plies": plies,
            "moves": self._games.moves[:, : plies.max()].copy(),
            "counts": np.array([len(kept) for kept in self._examples]),
            "planes": planes,
            "pi": pi,
            "q": q,
            "n": n,
            **{name: _signed(getattr(self._games, name)) for name in KEPT},
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Replace the running games by those of ``state`` from as many games at once."""
        self._seed = int(state["seed"].view(np.uint64)[0])
        self._begun = int(state["begun"][0])
        self._tree_seeds[:] = state["tree_seeds"]
        for name in KEPT:
            getattr(self._games, name)[:] = state[name]
        names = ("planes", "pi", "q", "n")
        examples = iter(zip(*(state[name] for name in names), strict=True))
        self._examples = [list(islice(examples, int(count))) for count in state["counts"]]
        # Trees are not kept in a checkpoint: replay the moves, then search anew.
        for game, plies in enumerate(state["plies"]):
            mcts.new_game(self._trees, game, self.size, self._tree_seeds[game])
            self._games.moves[game, :plies] = state["moves"][game, :plies]
            for action in self._games.moves[game, :plies]:
                mcts.advance(self._trees, game, action)
        self.restart_searches()

    def step(self, network: Network) -> list[Game]:
        """Evaluate one batch, play the moves that it completes, and return the games that ended."""
        if self.stopped:
            raise CancelledError("self-play was stopped")
        self.steps += 1
        leaves = self._leaves
        mv.inject_noise(self._trees, self._games, self.rules)
        targets = self._games.target
        self._trees, count = _select(self._trees, targets, self.virtual_losses, NO_LIMIT, leaves)
        if count:
            priors, values = network(self._view(count))
            search.expand(self._trees, leaves, 0, count, priors, values)
            self.readouts += count
        mv.finish_moves(self._trees, self._games, self.rules, self._events)
        self._keep_examples()
        return [self._end(int(game)) for game in np.flatnonzero(self._events.ended)]

    def _view(self, count: int) -> np.ndarray:
        return self._leaves.planes[:count].reshape(count, -1, self.size, self.size)

    def _keep_examples(self) -> None:
        events = self._events
        for game in np.flatnonzero(events.example):
            example = (pack_planes(events.planes[game]), events.pi[game].copy())
            self._examples[game].append((*example, float(events.q[game]), int(events.n[game])))

    def _end(self, game: int) -> Game:
        root = self._trees.root[game]
        plies = int(self._trees.info[root, go.PLIES])
        planes, pi, q, n = _example_arrays(self._examples[game], self.size)
        finished = Game(
            size=self.size,
            komi=self.komi,
            moves=self._games.moves[game, :plies].copy(),
            outcome=float(self._events.outcome[game]),
            resigned=bool(self._events.ended[game] == mv.RESIGNED),
            planes=planes,
            pi=pi,
            q=q,
            n=n,
        )
        self._begin(game)
        return finished

    def _begin(self, game: int) -> None:
        seeds = np.random.SeedSequence(self._seed, spawn_key=(self._begun,))
        moves_seed, self._tree_seeds[game] = seeds.generate_state(2, np.uint64)
        self._begun += 1
        mcts.new_game(self._trees, game, self.size, self._tree_seeds[game])
        mv.begin_game(self._games, game, moves_seed, self.rules)
        self._examples[game] = []


def _example_arrays(
    examples: Sequence[Example], size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Stack planes, pi, values and visits of examples, each into one array."""
    return (
        np.array([e[0] for e in examples], np.uint8).reshape(-1, PLANES, -(-size * size // 8)),
        np.array([e[1] for e in examples], np.float32).reshape(-1, size * size + 1),
        np.array([e[2] for e in examples], np.float32),
        np.array([e[3] for e in examples], np.int64),
    )


def _signed(array: np.ndarray) -> np.ndarray:
    """Copy an array as a type that every file format supports."""
    return (array.view(np.int64) if array.dtype == np.uint64 else array).copy()


@dataclass(frozen=True)
class MatchRules:
    """Match settings; the defaults are the closed reference's."""

    readouts: int = 100
    virtual_losses: int = 4
    pass_alive_plies: int = 133
    max_plies: int = 1444
    benson: bool = False

    @property
    def tries(self) -> int:
        """Descents of one tree per batch, those to finished games included."""
        return 2 * self.virtual_losses


@dataclass(frozen=True)
class MatchGame:
    """One finished game of a match."""

    number: int
    """Number in the match; the candidate has Black in even ones."""
    moves: np.ndarray
    outcome: float
    """1.0 if Black won, -1.0 if White did."""

    @property
    def won(self) -> bool:
        """Whether the candidate won."""
        return (self.outcome > 0) == (self.number % 2 == 0)


def play_match(
    candidate: Network,
    target: Network,
    numbers: Sequence[int],
    *,
    size: int,
    komi: float,
    rules: MatchRules,
    seed: int,
) -> list[MatchGame]:
    """Play games between two networks, all at once; only the symmetries are random.

    Args:
        candidate: Plays Black in even-numbered games.
        target: Plays the other colour.
        numbers: Numbers of the games; a game's symmetries depend on the seed and its number alone.
        size: Points per side.
        komi: Points that White gets.
        rules: Match settings.
        seed: Seed of the match.

    Returns:
        The games, in the order of ``numbers``.

    Source:
        mlcommons/training @ 9947bdf2, reinforcement/tensorflow/minigo/cc/eval.cc.
    """
    num = len(numbers)
    nodes = 2 * num * (rules.readouts + rules.tries + 1)
    trees = mcts.make_trees(size, 2 * num, nodes, komi)
    trees.benson[0] = rules.benson
    players = np.zeros(2 * num, np.uint8)
    for game, number in enumerate(numbers):
        seeds = np.random.SeedSequence([seed, number]).generate_state(2, np.uint64)
        for colour in range(2):
            mcts.new_game(trees, 2 * game + colour, size, seeds[colour])
            # Black's tree belongs to the candidate in even games, White's in odd ones.
            players[2 * game + colour] = (number + colour) % 2
    goals, ended = np.zeros(2 * num, np.int64), np.zeros(num, np.uint8)
    goals[0::2] = rules.readouts
    # Only the side to move searches; the other side's tree has target 0 and follows the moves.
    moves, outcome = np.zeros((num, rules.max_plies + 1), np.int16), np.zeros(num)
    leaves = mcts.make_leaves(size, 2 * num * rules.virtual_losses)
    while not ended.all():
        trees, count = _select(trees, goals, rules.virtual_losses, rules.tries, leaves)
        if count:
            priors, values = _evaluate_leaves(candidate, target, leaves, count, players, size)
            search.expand(trees, leaves, 0, count, priors, values)
        mv.finish_match_moves(
            trees, goals, moves, ended, outcome,
            rules.readouts, rules.pass_alive_plies, rules.max_plies,
        )  # fmt: skip
    plies = trees.info[trees.root[::2], go.PLIES]
    return [
        MatchGame(int(number), moves[i, : plies[i]].copy(), float(outcome[i]))
        for i, number in enumerate(numbers)
    ]


def uniform_network(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Evaluate positions with equal priors and value 0."""
    actions = planes.shape[2] ** 2 + 1
    priors = np.full((len(planes), actions), 1.0 / actions, np.float32)
    return priors, np.zeros(len(planes), np.float32)


def compile_search() -> None:
    """Compile everything that games need, or load it from numba's cache, by playing two games."""
    if not is_compiled():
        print("Compiling the Go engine (once, about half a minute) ...", flush=True)

    rules = mv.Rules(slow_readouts=2, fast_readouts=1, pass_alive_plies=8, max_plies=10)
    match = MatchRules(readouts=2, virtual_losses=1, pass_alive_plies=8, max_plies=10)
    network, size = uniform_network, go.MIN_SIZE
    with _interruptible():
        SelfPlay(size, 7.5, 1, rules, seed=0).play(network, 1)
        play_match(network, network, [0], size=size, komi=7.5, rules=match, seed=0)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end a compilation, where exceptions in the compiler's callbacks get lost.

    A handler that is not Python's own stays, as does an ignored signal (a script's background job).
    """
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not is_default or threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []

    def on_interrupt(number: int, frame: object) -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        with _ignore_lost_interrupts():
            yield
    except Exception:
        if not pressed:
            raise
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


@contextmanager
def _ignore_lost_interrupts() -> Iterator[None]:
    """Suppress the report of a KeyboardInterrupt that Python could only ignore."""
    default_hook = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if unraisable.exc_type is not KeyboardInterrupt:
            default_hook(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = default_hook


def _evaluate_leaves(
    candidate: Network,
    target: Network,
    leaves: mcts.Leaves,
    count: int,
    players: np.ndarray,
    size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Evaluate all leaves, each with the network that owns its tree; returns priors and values."""
    planes = leaves.planes[:count].reshape(count, -1, size, size)
    priors = np.zeros((count, size * size + 1), np.float32)
    values = np.zeros(count, np.float32)
    owner = players[leaves.tree[:count]]
    for player, network in enumerate((candidate, target)):
        rows = np.flatnonzero(owner == player)
        if len(rows):
            priors[rows], values[rows] = network(planes[rows])
    return priors, values
