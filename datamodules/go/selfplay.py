"""Games of a network against itself, many at once, and matches between two networks.

One worker is one thread: its compiled parts leave the interpreter lock free, so several workers
play at the same time. B positions, A actions.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numba import njit

from datamodules.go import board as go
from datamodules.go import moves as mv
from datamodules.go import search
from datamodules.go import tree as mcts

Network = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""planes (B, 13, n, n) uint8 -> priors (B, A) float32 and values (B,) float32, Black's view."""

# Descents of one tree and batch; finished games take no place in it, so they need a bound.
MOST_TRIES = 64
MATCH_TRIES = 8


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
    """(E, 13, n*n) uint8."""
    pi: np.ndarray
    """(E, A) float32."""
    q: np.ndarray
    """(E,) float32 search values, Black's view."""
    n: np.ndarray
    """(E,) int64 search visits."""


@njit(nogil=True, cache=True)
def _select_all(
    trees: mcts.Trees, targets: np.ndarray, num_leaves: int, tries: int, leaves: mcts.Leaves
) -> int:
    """Leaves of all trees whose search is not done; gives their number."""
    at = 0
    for tree in range(len(targets)):
        at = search.select(trees, tree, targets[tree], num_leaves, tries, leaves, at)
    return at


class SelfPlay:
    """One worker's running games.

    Args:
        size: Points per side, 5 to 19.
        komi: Points that White gets.
        games_at_once: Games in progress; their leaves make one batch.
        rules: Numbers of self-play.
        seed: Seed of the first game; the others count on from it.
        virtual_losses: Leaves of one game in a batch.
        allow_pass: False bars passing while there is another legal move.
    """

    def __init__(
        self, size: int, komi: float, games_at_once: int, rules: mv.Rules, *, seed: int,
        virtual_losses: int = 4, allow_pass: bool = True,
    ) -> None:  # fmt: skip
        self.size, self.komi, self.rules = size, komi, rules
        self.virtual_losses = virtual_losses
        nodes = games_at_once * (2 * MOST_TRIES + rules.slow_readouts)
        self._trees = mcts.make_trees(size, games_at_once, nodes, komi)
        self._trees.allow_pass[0] = allow_pass
        self._games = mv.make_games(games_at_once, rules.max_plies)
        self._events = mv.make_events(games_at_once, size)
        self._leaves = mcts.make_leaves(size, games_at_once * virtual_losses)
        self._examples: list[list[tuple[np.ndarray, np.ndarray, float, int]]] = [
            [] for _ in range(games_at_once)
        ]
        self._seeds = np.random.SeedSequence(seed)
        self.readouts = 0
        for game in range(games_at_once):
            self._begin(game)

    def play(self, network: Network, num_games: int) -> list[Game]:
        """Play on until some games are finished; the others stay as they are.

        Args:
            network: Values positions; may be another one than in the call before.
            num_games: Games to finish; a few more may come.

        Returns:
            The finished games, in the order in which they ended.
        """
        finished: list[Game] = []
        while len(finished) < num_games:
            finished += self.step(network)
        return finished

    def step(self, network: Network) -> list[Game]:
        """One batch through the network, and the moves that come of it.

        Args:
            network: Values positions.

        Returns:
            Games that ended.
        """
        while self._trees.top[0] < len(self._examples) * (MOST_TRIES + 1):
            self._trees = mcts.grow(self._trees)
        trees, leaves = self._trees, self._leaves
        mv.inject_noise(trees, self._games, self.rules)
        count = _select_all(trees, self._games.target, self.virtual_losses, MOST_TRIES, leaves)
        if count:
            priors, values = network(self._view(count))
            search.expand(trees, leaves, 0, count, priors, values)
            self.readouts += count
        mv.finish_moves(trees, self._games, self.rules, self._events)
        self._keep_examples()
        return [self._end(int(game)) for game in np.flatnonzero(self._events.ended)]

    def _view(self, count: int) -> np.ndarray:
        return self._leaves.planes[:count].reshape(count, -1, self.size, self.size)

    def _keep_examples(self) -> None:
        events = self._events
        for game in np.flatnonzero(events.example):
            example = (events.planes[game].copy(), events.pi[game].copy())
            self._examples[game].append((*example, float(events.q[game]), int(events.n[game])))

    def _end(self, game: int) -> Game:
        root = self._trees.root[game]
        plies = int(self._trees.info[root, go.PLIES])
        examples = self._examples[game]
        points = self.size * self.size
        finished = Game(
            size=self.size,
            komi=self.komi,
            moves=self._games.moves[game, :plies].copy(),
            outcome=float(self._events.outcome[game]),
            resigned=bool(self._events.ended[game] == mv.RESIGNED),
            planes=np.array([e[0] for e in examples], np.uint8).reshape(-1, 13, points),
            pi=np.array([e[1] for e in examples], np.float32).reshape(-1, points + 1),
            q=np.array([e[2] for e in examples], np.float32),
            n=np.array([e[3] for e in examples], np.int64),
        )
        self._begin(game)
        return finished

    def _begin(self, game: int) -> None:
        moves_seed, turn_seed = self._seeds.spawn(1)[0].generate_state(2, np.uint64)
        mcts.new_game(self._trees, game, self.size, turn_seed)
        mv.begin(self._games, game, moves_seed, self.rules)
        self._examples[game] = []


def play_together(workers: Sequence[SelfPlay], network: Network, num_games: int) -> list[Game]:
    """Let all workers play at once, each in its own thread.

    Args:
        workers: Each finishes its share, so that the games don't depend on which thread is faster.
        network: Called from all threads.
        num_games: Games to finish in all; a few more may come.

    Returns:
        The games, worker by worker.
    """
    if len(workers) == 1:
        return workers[0].play(network, num_games)
    share = -(-num_games // len(workers))
    with ThreadPoolExecutor(len(workers)) as pool:
        parts = pool.map(lambda worker: worker.play(network, share), workers)
        return [game for part in parts for game in part]


@dataclass(frozen=True)
class MatchRules:
    """Numbers of a match; the defaults are the closed reference's."""

    readouts: int = 100
    virtual_losses: int = 4
    pass_alive_plies: int = 133
    max_plies: int = 1444


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
        """Whether the candidate has won."""
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
    """Play games between two networks, all at once; nothing in them is random but the symmetries.

    Args:
        candidate: Plays Black in even-numbered games.
        target: Plays the other colour.
        numbers: Which games; each game's symmetries depend on the seed and its number alone.
        size: Points per side.
        komi: Points that White gets.
        rules: Numbers of the match.
        seed: Seed of the match.

    Returns:
        The games, in the order of ``numbers``.

    Source:
        mlcommons/training @ 9947bdf2, reinforcement/tensorflow/minigo/cc/eval.cc.
    """
    num = len(numbers)
    nodes = 2 * num * (rules.readouts + MATCH_TRIES + 1)
    trees = mcts.make_trees(size, 2 * num, nodes, komi)
    players = np.zeros(2 * num, np.uint8)
    for place, number in enumerate(numbers):
        seeds = np.random.SeedSequence([seed, number]).generate_state(2, np.uint64)
        for colour in range(2):
            mcts.new_game(trees, 2 * place + colour, size, seeds[colour])
            # Black's tree belongs to the candidate in even games, White's in odd ones.
            players[2 * place + colour] = (number + colour) % 2
    goals, ended = np.zeros(2 * num, np.int64), np.zeros(num, np.uint8)
    goals[0::2] = rules.readouts
    moves, outcome = np.zeros((num, rules.max_plies + 1), np.int16), np.zeros(num)
    leaves = mcts.make_leaves(size, 2 * num * rules.virtual_losses)
    while not ended.all():
        while trees.top[0] < 2 * num * (MATCH_TRIES + 1):
            trees = mcts.grow(trees)
        count = _select_all(trees, goals, rules.virtual_losses, MATCH_TRIES, leaves)
        if count:
            priors, values = _ask_both(candidate, target, leaves, count, players, size)
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


def compile_search() -> None:
    """Compile everything that games need, or load it from numba's cache, by playing two of them."""

    def knows_nothing(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        actions = planes.shape[2] ** 2 + 1
        priors = np.full((len(planes), actions), 1.0 / actions, np.float32)
        return priors, np.zeros(len(planes), np.float32)

    rules = mv.Rules(slow_readouts=2, fast_readouts=1, pass_alive_plies=8, max_plies=10)
    SelfPlay(go.MIN_SIZE, 7.5, 1, rules, seed=0).play(knows_nothing, 1)
    match = MatchRules(readouts=2, virtual_losses=1, pass_alive_plies=8, max_plies=10)
    play_match(knows_nothing, knows_nothing, [0], size=go.MIN_SIZE, komi=7.5, rules=match, seed=0)


def _ask_both(
    candidate: Network,
    target: Network,
    leaves: mcts.Leaves,
    count: int,
    players: np.ndarray,
    size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Priors and values of all leaves, each from the network whose tree it lies in."""
    planes = leaves.planes[:count].reshape(count, -1, size, size)
    priors = np.zeros((count, size * size + 1), np.float32)
    values = np.zeros(count, np.float32)
    owner = players[leaves.tree[:count]]
    for player, network in enumerate((candidate, target)):
        rows = np.flatnonzero(owner == player)
        if len(rows):
            priors[rows], values[rows] = network(planes[rows])
    return priors, values
