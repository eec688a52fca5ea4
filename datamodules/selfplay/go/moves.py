"""From finished searches to moves: self-play's rules and the match's rules.

Facts: mlcommons/training @ 9947bdf2, reinforcement/tensorflow/minigo: cc/concurrent_selfplay.cc,
cc/eval.cc and cc/mcts_tree.cc (target pruning). Differs: where the reference divides by zero in
the pruning bound, the bound is 0.

``game`` and ``tree`` are indices; ``random`` is a (1,) uint64 generator state; ``owner`` is (C,)
from ``pass_alive``.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from datamodules.selfplay.go import board as go
from datamodules.selfplay.go.score import area_score, pass_alive
from datamodules.selfplay.go.search import exploration, root_planes, side
from datamodules.selfplay.go.tree import EXPANDED, Trees, advance, clear_search

RUNNING, SCORED, RESIGNED = 0, 1, 2
BARRED_AFTER_PASSES = 4


class Rules(NamedTuple):
    """Self-play settings; the defaults are the closed reference's for 19 x 19."""

    slow_readouts: int = 800
    fast_readouts: int = 80
    fast_share: float = 0.75
    noise_alpha: float = 0.03
    noise_mix: float = 0.3
    soft_plies: int = 30
    soft_power: float = 0.98
    pass_alive_plies: int = 133
    resign_low: float = -1.0
    resign_high: float = -0.9
    prune: int = 1
    max_plies: int = 1444


class Games(NamedTuple):
    """State of the running games beyond their trees."""

    target: Any  # (T,) int64 visits that end the search
    slow: Any  # (T,) uint8 whether this search makes an example
    noise: Any  # (T,) uint8 noise still to be added
    resign: Any  # (T,) float64 threshold
    random: Any  # (T, 1) uint64 generator state
    passes: Any  # (T, 2) int64 own turns passed in a row, Black and White
    barred: Any  # (T, 2) uint8 1 once the other side may not play in pass-alive regions
    moves: Any  # (T, P) int16


class Events(NamedTuple):
    """Output of ``finish_moves``: at most one example and one ending per game."""

    planes: Any  # (T, 13, n*n) uint8
    pi: Any  # (T, A) float32
    example: Any  # (T,) uint8
    ended: Any  # (T,) uint8 RUNNING, SCORED or RESIGNED
    outcome: Any  # (T,) float64 1 if Black won, else -1
    q: Any  # (T,) float64 root value, Black's view
    n: Any  # (T,) int64 root visits


def make_games(num: int, max_plies: int) -> Games:
    """Allocate running games; ``begin_game`` starts each."""
    return Games(
        np.zeros(num, np.int64), np.zeros(num, np.uint8), np.zeros(num, np.uint8),
        np.zeros(num, np.float64), np.zeros((num, 1), np.uint64), np.zeros((num, 2), np.int64),
        np.zeros((num, 2), np.uint8), np.zeros((num, max_plies + 2), np.int16),
    )  # fmt: skip


def make_events(num: int, size: int) -> Events:
    return Events(
        np.zeros((num, 13, size * size), np.uint8),
        np.zeros((num, size * size + 1), np.float32),
        np.zeros(num, np.uint8), np.zeros(num, np.uint8), np.zeros(num, np.float64),
        np.zeros(num, np.float64), np.zeros(num, np.int64),
    )  # fmt: skip


@njit(nogil=True, cache=True)
def begin_game(games: Games, game: int, seed: int, rules: Rules) -> None:
    """Reset a game's state and draw its resignation threshold; ``new_game`` resets its tree."""
    games.random[game, 0] = seed
    games.passes[game] = 0
    games.barred[game] = 0
    games.target[game] = rules.slow_readouts
    games.slow[game] = games.noise[game] = 1
    drawn = go.uniform(games.random[game])
    games.resign[game] = rules.resign_low + (rules.resign_high - rules.resign_low) * drawn


@njit(nogil=True, cache=True)
def gamma(random: np.ndarray, shape: float) -> float:
    """Draw a gamma variate of scale 1; it may be 0 for small shapes.

    Source: G. Marsaglia, W. W. Tsang, "A simple method for generating gamma variables" (2000).
    """
    # The method needs a shape of at least 1; smaller ones are those of shape + 1, scaled.
    boost = 1.0
    if shape < 1.0:
        boost = (1.0 - go.uniform(random)) ** (1.0 / shape)
        shape += 1.0
    d = shape - 1.0 / 3.0
    c = 1.0 / np.sqrt(9.0 * d)
    while True:
        angle = 2.0 * np.pi * go.uniform(random)
        x = np.sqrt(-2.0 * np.log(1.0 - go.uniform(random))) * np.cos(angle)
        v = (1.0 + c * x) ** 3
        if v > 0 and np.log(1.0 - go.uniform(random)) < 0.5 * x * x + d - d * v + d * np.log(v):
            return boost * d * v


@njit(nogil=True, cache=True)
def add_noise(trees: Trees, tree: int, random: np.ndarray, alpha: float, mix: float) -> None:
    """Mix Dirichlet noise into the priors of an expanded root; ``mix`` is the noise's share."""
    root = trees.root[tree]
    actions = trees.p.shape[1]
    noise = np.zeros(actions)
    for action in range(actions):
        drawn = gamma(random, alpha)
        if trees.legal[root, action]:
            noise[action] = drawn
    total = noise.sum()
    if total > 0:
        for action in range(actions):
            share = (1.0 - mix) * trees.p[root, action] + mix * noise[action] / total
            trees.p[root, action] = share


@njit(nogil=True, cache=True)
def most_visited(trees: Trees, tree: int, owner: np.ndarray) -> int:
    """Return the most visited legal move; ties go to the better score, then the lower number.

    Points marked in ``owner`` are barred; the pass never is.
    """
    root, total = trees.root[tree], trees.root_n[tree]
    sign, weight = side(trees, root), exploration(total) * np.sqrt(1.0 + total)
    last = trees.n.shape[1] - 1
    size = trees.info[root, go.SIZE]
    best, best_n, best_score = last, 0, -1e9
    for action in range(last + 1):
        n = trees.n[root, action]
        if n < best_n or (action < last and owner[go.cell_of(action, size)] != 0):
            continue
        if trees.legal[root, action] == 0:
            continue
        score = (trees.w[root, action] * sign + weight * trees.p[root, action]) / (1.0 + n)
        if n > best_n or score > best_score:
            best, best_n, best_score = action, n, score
    return best


@njit(nogil=True, cache=True)
def soft_pick(trees: Trees, tree: int, random: np.ndarray, power: float) -> int:
    """Draw a point in proportion to its visits to a power; the pass if no point was visited."""
    root, last = trees.root[tree], trees.n.shape[1] - 1
    total = 0.0
    for action in range(last):
        if trees.n[root, action] > 0:
            total += trees.n[root, action] ** power
    if total == 0:
        return last
    left = go.uniform(random) * total
    chosen = last
    for action in range(last):
        if trees.n[root, action] > 0:
            chosen = action
            left -= trees.n[root, action] ** power
            if left < 0:
                break
    return chosen


@njit(nogil=True, cache=True)
def prune(trees: Trees, tree: int, owner: np.ndarray) -> None:
    """Remove the visits that only exploration or noise gave, from the live counts.

    Points marked in ``owner`` lose all their visits, the best move included.
    """
    root, total = trees.root[tree], trees.root_n[tree]
    n, w, p = trees.n[root], trees.w[root], trees.p[root]
    sign, c, last = side(trees, root), exploration(total), len(n) - 1
    best = most_visited(trees, tree, np.zeros_like(owner))
    top = (w[best] * sign + c * np.sqrt(1.0 + total) * p[best]) / (1.0 + n[best])
    for action in range(last + 1):
        if action < last and owner[go.cell_of(action, trees.info[root, go.SIZE])] != 0:
            n[action] = 0
        elif action != best and n[action] > 0:
            gap = top - w[action] * sign / (1.0 + n[action])
            bound = c * p[action] * np.sqrt(total) / gap if gap > 0 else 0.0
            n[action] = int(min(float(n[action]), bound))
    if n.max() == 0:
        n[last] = 1


@njit(nogil=True, cache=True)
def _write_pi(trees: Trees, tree: int, power: float, pi: np.ndarray) -> None:
    """Write visits to a power, normalised over all actions."""
    root, total = trees.root[tree], 0.0
    for action in range(len(pi)):
        n = trees.n[root, action]
        pi[action] = n**power if n > 0 else 0.0
        total += pi[action]
    for action in range(len(pi)):
        pi[action] /= total


@njit(nogil=True, cache=True)
def find_pass_alive(trees: Trees, tree: int, owner: np.ndarray) -> bool:
    """Mark the pass-alive regions of a root in ``owner``; return whether they hold all points."""
    root = trees.root[tree]
    return pass_alive(trees.board[root], trees.info[root], owner, trees.benson[0] != 0)


@njit(nogil=True, cache=True)
def is_over(trees: Trees, tree: int, plies: int, max_plies: int) -> bool:
    """Return whether a game is to be scored at its root.

    From ``plies`` moves on a board of pass-alive points alone ends it, and ``max_plies`` always do.
    """
    root = trees.root[tree]
    info = trees.info[root]
    if info[go.PASSES] >= 2 or info[go.PLIES] >= max_plies:
        return True
    if info[go.PLIES] < plies:
        return False
    owner = np.zeros(trees.board.shape[2], np.int8)
    return find_pass_alive(trees, tree, owner)


@njit(nogil=True, cache=True)
def _winner(trees: Trees, tree: int) -> float:
    """Return 1 if Black has won by area, else -1."""
    board, info = trees.board[trees.root[tree]], trees.info[trees.root[tree]]
    return 1.0 if area_score(board, info, trees.komi[0], trees.benson[0] != 0) > 0 else -1.0


@njit(nogil=True, cache=True)
def _choose(trees: Trees, game: int, games: Games, rules: Rules, events: Events, me: int) -> int:
    """Choose self-play's move and, on slow moves, write the example."""
    root = trees.root[game]
    soft = trees.info[root, go.PLIES] < rules.soft_plies
    owner = np.zeros(trees.board.shape[2], np.int8)
    if games.barred[game, 1 - me]:
        find_pass_alive(trees, game, owner)
    if soft:
        action = soft_pick(trees, game, games.random[game], rules.soft_power)
    else:
        action = most_visited(trees, game, owner)
    if games.slow[game]:
        events.example[game] = 1
        events.q[game] = trees.root_w[game] / (1.0 + trees.root_n[game])
        events.n[game] = trees.root_n[game]
        # After the move was chosen: pruning changes the live visits, from which pi is written.
        if rules.prune:
            prune(trees, game, owner)
        root_planes(trees, game, events.planes[game])
        _write_pi(trees, game, rules.soft_power if soft else 1.0, events.pi[game])
    return action


@njit(nogil=True, cache=True)
def finish_moves(trees: Trees, games: Games, rules: Rules, events: Events) -> None:
    """Play the move of every game whose search is done and start its next search."""
    for game in range(len(games.target)):
        events.example[game] = 0
        events.ended[game] = RUNNING
        if trees.root_n[game] < games.target[game]:
            continue
        root = trees.root[game]
        me = trees.info[root, go.TO_PLAY] - go.BLACK
        mine = trees.root_w[game] / (1.0 + trees.root_n[game]) * side(trees, root)
        if mine < games.resign[game]:
            events.ended[game] = RESIGNED
            events.outcome[game] = -side(trees, root)
            continue
        action = _choose(trees, game, games, rules, events, me)
        passed = action == trees.n.shape[1] - 1
        games.passes[game, me] = games.passes[game, me] + 1 if passed else 0
        if games.passes[game, me] >= BARRED_AFTER_PASSES:
            games.barred[game, me] = 1
        games.moves[game, trees.info[root, go.PLIES]] = action
        advance(trees, game, action)
        if is_over(trees, game, rules.pass_alive_plies, rules.max_plies):
            events.ended[game] = SCORED
            events.outcome[game] = _winner(trees, game)
            continue
        _next_search(trees, game, games, rules)


@njit(nogil=True, cache=True)
def _next_search(trees: Trees, game: int, games: Games, rules: Rules) -> None:
    """Draw a fast or a slow search; a slow one's target counts the visits cleared here."""
    # As in the reference, a fast search adds to the visits kept from the last move, while a slow
    # one has these visits on top of its own number although it starts from nothing. Without fast
    # moves every search keeps its tree.
    fast = go.uniform(games.random[game]) < rules.fast_share
    games.slow[game] = games.noise[game] = 0 if fast else 1
    if fast:
        games.target[game] = trees.root_n[game] + rules.fast_readouts
    else:
        games.target[game] = trees.root_n[game] + rules.slow_readouts
        if rules.fast_share > 0:
            clear_search(trees, game)


@njit(nogil=True, cache=True)
def inject_noise(trees: Trees, games: Games, rules: Rules) -> None:
    """Add noise to the expanded roots that wait for it."""
    for game in range(len(games.noise)):
        if games.noise[game] and trees.state[trees.root[game]] == EXPANDED:
            add_noise(trees, game, games.random[game], rules.noise_alpha, rules.noise_mix)
            games.noise[game] = 0


@njit(nogil=True, cache=True)
def finish_match_moves(
    trees: Trees, target: np.ndarray, moves: np.ndarray, ended: np.ndarray,
    outcome: np.ndarray, readouts: int, plies: int, max_plies: int,
) -> None:  # fmt: skip
    """Play the best move of every match game whose search is done; both trees follow.

    Game g has the trees 2g (Black's) and 2g + 1; ``target`` (T,) holds the visits that end a tree's
    search, 0 for trees not to move. Fills ``moves`` (T / 2, P), ``ended`` and ``outcome`` (T / 2,).
    """
    owner = np.zeros(trees.board.shape[2], np.int8)
    for game in range(len(ended)):
        if ended[game]:
            continue
        root = trees.root[2 * game]
        mover = 2 * game + trees.info[root, go.TO_PLAY] - go.BLACK
        if trees.root_n[mover] < target[mover]:
            continue
        find_pass_alive(trees, 2 * game, owner)
        action = most_visited(trees, mover, owner)
        moves[game, trees.info[root, go.PLIES]] = action
        advance(trees, 2 * game, action)
        advance(trees, 2 * game + 1, action)
        target[mover] = 0
        if is_over(trees, 2 * game, plies, max_plies):
            ended[game] = 1
            outcome[game] = _winner(trees, 2 * game)
        else:
            other = 4 * game + 1 - mover
            target[other] = trees.root_n[other] + readouts
