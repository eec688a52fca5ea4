"""Search in the trees: which leaf to evaluate next, and how the network's output changes a tree.

Shapes: M nodes, T trees, A actions, C cells, L leaves of one batch.

Facts: mlcommons/training @ 9947bdf2, reinforcement/tensorflow/minigo/cc/mcts_tree.cc.
"""

import numpy as np
from numba import njit

from datamodules.selfplay.go import board as go
from datamodules.selfplay.go.features import write_planes
from datamodules.selfplay.go.tree import (
    EXPANDED,
    FPU_PENALTY,
    ILLEGAL,
    OVER,
    PUCT_BASE,
    PUCT_INIT,
    UNEXPANDED,
    Leaves,
    Trees,
    make_child,
)


@njit(nogil=True, cache=True)
def visits(trees: Trees, tree: int, node: int) -> int:
    """Return the visits of a node."""
    if trees.parent[node] < 0:
        return trees.root_n[tree]
    return np.int64(trees.n[trees.parent[node], trees.move[node]])  # type: ignore[return-value]


@njit(nogil=True, cache=True)
def exploration(n: float) -> float:
    """Return the prior's weight c(N) = 2 (ln((1 + N + 19652) / 19652) + 1.25)."""
    return 2.0 * (np.log((1.0 + n + PUCT_BASE) / PUCT_BASE) + PUCT_INIT)


@njit(nogil=True, cache=True)
def side(trees: Trees, node: int) -> float:
    """Return the sign that turns Black's value into that of the player to move."""
    return 1.0 if trees.info[node, go.TO_PLAY] == go.BLACK else -1.0


@njit(nogil=True, cache=True)
def best_edge(trees: Trees, tree: int, node: int) -> int:
    """Return the action with the highest score, the lowest number among equals.

    Where passing is not allowed, the pass keeps its prior but is the last choice.
    """
    total = visits(trees, tree, node)
    weight = exploration(total) * np.sqrt(max(1.0, total - 1.0))
    sign = side(trees, node)
    n, w, p, legal = trees.n[node], trees.w[node], trees.p[node], trees.legal[node]
    # NaN scores of a diverged network must not choose an occupied point, so start at the pass.
    last = len(n) - 1
    best, best_score = last, -1e9
    for action in range(last + trees.allow_pass[0]):
        score = (w[action] * sign + weight * p[action]) / (1.0 + n[action])
        if legal[action] == 0:
            score += ILLEGAL
        if score > best_score:
            best, best_score = action, score
    return best if legal[best] else last


@njit(nogil=True, cache=True)
def _add(trees: Trees, tree: int, node: int, visits_added: int, value: float) -> None:
    """Add visits and value to a node and all nodes above it."""
    while trees.parent[node] >= 0:
        above, action = trees.parent[node], trees.move[node]
        trees.n[above, action] += visits_added
        trees.w[above, action] += value
        node = above
    trees.root_n[tree] += visits_added
    trees.root_w[tree] += value


@njit(nogil=True, cache=True)
def _virtual_loss(trees: Trees, tree: int, node: int, sign: float) -> None:
    """Apply (1) or undo (-1) a virtual loss on a path, without changing visits."""
    while trees.parent[node] >= 0:
        above, action = trees.parent[node], trees.move[node]
        trees.w[above, action] += sign * side(trees, node)
        node = above
    trees.root_w[tree] += sign * side(trees, node)


@njit(nogil=True, cache=True)
def _symmetry(trees: Trees, tree: int, node: int) -> int:
    """Return one of 8 symmetries, chosen by the stones and the game's seed."""
    key = np.uint64(trees.info[node, go.HASH]) ^ trees.seed[tree]
    key *= np.uint64(0xBF58476D1CE4E5B9)
    return np.int64(key >> np.uint64(61))  # type: ignore[return-value]


@njit(nogil=True, cache=True)
def _planes(trees: Trees, tree: int, node: int, order: np.ndarray, planes: np.ndarray) -> None:
    """Write a node's input planes, its earlier boards taken from the path and the game."""
    past = np.zeros((3, trees.board.shape[2]), np.int16)
    plies = trees.info[node, go.PLIES]
    count, above, from_game = 0, trees.parent[node], 0
    while count < min(3, plies):
        if above >= 0:
            past[count] = trees.board[above, go.COLOUR]
            above = trees.parent[above]
        else:
            past[count] = trees.past[tree, from_game]
            from_game += 1
        count += 1
    write_planes(planes, trees.board[node], trees.info[node], past, count, trees.legal[node], order)


@njit(nogil=True, cache=True)
def root_planes(trees: Trees, tree: int, planes: np.ndarray) -> None:
    """Write the input planes of a root, not rotated: the input of a training example."""
    _planes(trees, tree, trees.root[tree], trees.sym[0], planes)


@njit(nogil=True, cache=True)
def nodes_needed(trees: Trees, tree: int, target: int, num_leaves: int, most_tries: int) -> int:
    """Return an upper bound of the nodes that ``select`` makes: one per descent."""
    # Every descent fills a slot or, where the game is over, adds a visit.
    return min(most_tries, num_leaves + max(0, target - trees.root_n[tree]))


@njit(nogil=True, cache=True)
def select(
    trees: Trees, tree: int, target: int, num_leaves: int, most_tries: int, leaves: Leaves, at: int
) -> int:
    """Descend to leaves of one tree until its share of a batch is full; return the next free slot.

    Needs ``nodes_needed`` free nodes. Finished games are backed up at once and take no slot. ``at``
    is the first free slot in ``leaves``.
    """
    end, root = at + num_leaves, trees.root[tree]
    while at < end and most_tries > 0 and trees.root_n[tree] < target:
        most_tries -= 1
        node = root
        while trees.state[node] == EXPANDED:
            node = make_child(trees, tree, node, best_edge(trees, tree, node))
        if trees.state[node] == OVER:
            _add(trees, tree, node, 1, trees.value[node])
            continue
        turn = _symmetry(trees, tree, node)
        _planes(trees, tree, node, trees.sym[turn], leaves.planes[at])
        leaves.node[at], leaves.tree[at], leaves.turn[at] = node, tree, turn
        _virtual_loss(trees, tree, node, 1.0)
        at += 1
        if node == root:
            break  # not expanded yet: further descents would only find it again
    return at


@njit(nogil=True, cache=True)
def expand(
    trees: Trees, leaves: Leaves, first: int, last: int, priors: np.ndarray, values: np.ndarray
) -> None:
    """Expand the leaves ``first`` to ``last`` and back their values up to the roots.

    ``priors`` (last - first, A) are softmax outputs on the rotated board; ``values``
    (last - first,) are in [-1, 1], Black's view.
    """
    for leaf in range(first, last):
        node, tree = leaves.node[leaf], leaves.tree[leaf]
        _virtual_loss(trees, tree, node, -1.0)
        # Two descents of one batch can end at the same leaf; the first of them expands it.
        if trees.state[node] == UNEXPANDED:
            order = trees.sym[leaves.turn[leaf]]
            value = np.float64(values[leaf - first])
            _open(trees, node, order, priors[leaf - first], value)
            _add(trees, tree, node, 1, value)


@njit(nogil=True, cache=True)
def _open(trees: Trees, node: int, order: np.ndarray, priors: np.ndarray, value: float) -> None:
    """Set priors over legal moves and first-play values of a node, which then is expanded."""
    total, count = 0.0, 0
    for point in range(len(priors)):
        action = order[point]
        if trees.legal[node, action]:
            total += priors[point]
            count += 1
    for point in range(len(priors)):
        action = order[point]
        if trees.legal[node, action] == 0:
            trees.p[node, action] = 0.0
        elif total > 0:
            trees.p[node, action] = priors[point] / total
        else:
            trees.p[node, action] = 1.0 / count  # a network without any mass on legal moves
    trees.w[node] += min(1.0, max(-1.0, value - FPU_PENALTY * side(trees, node)))
    trees.state[node] = EXPANDED
