"""Many search trees in flat arrays: allocate nodes, make children, move the roots.

All trees of one worker share one pool of nodes. Values are Black's. ``n`` and ``w`` of a node are
stored on the edge from its parent; those of a root in ``root_n`` and ``root_w``. ``tree``, ``node``
and ``action`` are indices.

Shapes: M nodes, T trees, A actions, C cells, L leaves of one batch.

Facts: mlcommons/training @ 9947bdf2, reinforcement/tensorflow/minigo/cc/mcts_tree.cc.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from datamodules.selfplay.go import board as go
from datamodules.selfplay.go.features import PLANES, symmetries
from datamodules.selfplay.go.score import area_score

UNEXPANDED, EXPANDED, OVER = 0, 1, 2
PUCT_BASE, PUCT_INIT, FPU_PENALTY = 19652.0, 1.25, 0.2
ILLEGAL = -1000.0


class Trees(NamedTuple):
    """State of all trees of one worker; see ``make_trees``."""

    board: Any  # (M, 4, C) int16
    info: Any  # (M, INFO) int64
    n: Any  # (M, A) int32 visits
    w: Any  # (M, A) float64 sum of values, the first-play value included
    p: Any  # (M, A) float32 priors
    child: Any  # (M, A) int32 node, -1 where there is none
    legal: Any  # (M, A) uint8
    parent: Any  # (M,) int32, -1 at a root
    move: Any  # (M,) int32 action that led here
    state: Any  # (M,) uint8 UNEXPANDED, EXPANDED or OVER
    value: Any  # (M,) float64 result of a finished game
    free: Any  # (M,) int32 stack of unused nodes
    top: Any  # (1,) int64 height of that stack
    root: Any  # (T,) int32
    root_n: Any  # (T,) int64
    root_w: Any  # (T,) float64
    past: Any  # (T, 3, C) int16 boards before the root, newest first
    history: Any  # (T, H) int64 positions of the game
    seed: Any  # (T,) uint64 chooses symmetries
    sym: Any  # (8, A) int32
    komi: Any  # (1,) float64
    allow_pass: Any  # (1,) uint8, 0: search the pass only where nothing else is legal
    benson: Any  # (1,) uint8, 1: Benson's pass-alive rule instead of the reference's


class Leaves(NamedTuple):
    """Leaves that wait for the network."""

    planes: Any  # (L, 13, n*n) uint8, turned by ``turn``
    node: Any  # (L,) int32
    tree: Any  # (L,) int32
    turn: Any  # (L,) int32 symmetry


NODE_FIELDS = (
    "board", "info", "n", "w", "p", "child", "legal", "parent", "move", "state", "value", "free",
)  # fmt: skip


def make_trees(size: int, num_trees: int, num_nodes: int, komi: float) -> Trees:
    """Allocate trees with empty boards and at least ``num_nodes`` nodes; ``grow`` adds more."""
    cells = go.num_cells(size)
    m, t = max(num_nodes, 2 * num_trees), num_trees
    trees = Trees(
        **_node_arrays(size, m),
        top=np.full(1, m, np.int64),
        root=np.full(t, -1, np.int32),
        root_n=np.zeros(t, np.int64),
        root_w=np.zeros(t, np.float64),
        past=np.zeros((t, 3, cells), np.int16),
        history=np.zeros((t, go.history_length(size)), np.int64),
        seed=np.zeros(t, np.uint64),
        sym=symmetries(size),
        komi=np.full(1, komi, np.float64),
        allow_pass=np.ones(1, np.uint8),
        benson=np.zeros(1, np.uint8),
    )
    for tree in range(t):
        new_game(trees, tree, size, tree)
    return trees


def node_bytes(size: int) -> int:
    return sum(array.nbytes for array in _node_arrays(size, 1).values())


def _node_arrays(size: int, m: int) -> dict[str, np.ndarray]:
    actions = size * size + 1
    return {
        "board": np.zeros((m, 4, go.num_cells(size)), np.int16),
        "info": np.zeros((m, go.INFO), np.int64),
        "n": np.zeros((m, actions), np.int32),
        "w": np.zeros((m, actions), np.float64),
        "p": np.zeros((m, actions), np.float32),
        "child": np.full((m, actions), -1, np.int32),
        "legal": np.zeros((m, actions), np.uint8),
        "parent": np.full(m, -1, np.int32),
        "move": np.full(m, -1, np.int32),
        "state": np.zeros(m, np.uint8),
        "value": np.zeros(m, np.float64),
        "free": np.arange(m, dtype=np.int32),
    }


def make_leaves(size: int, length: int) -> Leaves:
    """Allocate a batch of up to ``length`` leaves."""
    number = np.zeros(length, np.int32)
    planes = np.zeros((length, PLANES, size * size), np.uint8)
    return Leaves(planes, number, number.copy(), number.copy())


def grow(trees: Trees) -> Trees:
    """Return the trees with twice the nodes; the argument must not be used afterwards."""
    old = len(trees.parent)
    bigger = {}
    for name in NODE_FIELDS:
        array = getattr(trees, name)
        fresh = np.zeros((2 * old, *array.shape[1:]), array.dtype)
        fresh[:old] = array
        bigger[name] = fresh
    top = int(trees.top[0])
    bigger["free"][top : top + old] = np.arange(old, 2 * old)
    trees.top[0] = top + old
    return trees._replace(**bigger)


def grow_history(trees: Trees) -> Trees:
    """Return the trees with history tables of twice the length."""
    old = trees.history
    longer = np.zeros((len(old), 2 * old.shape[1]), old.dtype)
    for table, keys in zip(longer, old, strict=True):
        for key in keys[keys != 0]:
            go.add_to_history(table, key)
    return trees._replace(history=longer)


@njit(nogil=True, cache=True)
def new_game(trees: Trees, tree: int, size: int, seed: int) -> None:
    """Reset a tree to an empty board; the seed chooses the symmetries of its evaluations."""
    if trees.root[tree] >= 0:
        _free_below(trees, trees.root[tree], -1)
        _free_node(trees, trees.root[tree])
    trees.history[tree] = 0
    trees.past[tree] = 0
    trees.seed[tree] = seed
    root = _allocate_node(trees)
    trees.root[tree], trees.root_n[tree], trees.root_w[tree] = root, 0, 0.0
    go.clear(trees.board[root], trees.info[root], size)
    go.add_to_history(trees.history[tree], trees.info[root, go.HASH])
    go.legal_moves(trees.board[root], trees.info[root], trees.history[tree], trees.legal[root])


@njit(nogil=True, cache=True)
def _allocate_node(trees: Trees) -> int:
    """Take a node from the pool and reset it."""
    trees.top[0] -= 1
    node = trees.free[trees.top[0]]
    trees.n[node] = 0
    trees.w[node] = 0.0
    trees.child[node] = -1
    trees.parent[node] = trees.move[node] = -1
    trees.state[node] = UNEXPANDED
    return node


@njit(nogil=True, cache=True)
def _free_node(trees: Trees, node: int) -> None:
    trees.free[trees.top[0]] = node
    trees.top[0] += 1


@njit(nogil=True, cache=True)
def _free_below(trees: Trees, node: int, keep: int) -> None:
    """Free all nodes below one, except the branch of one child."""
    # The stack of free nodes is the queue of nodes whose children are still to be freed: numba
    # cannot load recursive functions from its cache.
    at = trees.top[0]
    _release_children(trees, node, keep)
    while at < trees.top[0]:
        _release_children(trees, trees.free[at], -1)
        at += 1


@njit(nogil=True, cache=True)
def _release_children(trees: Trees, node: int, keep: int) -> None:
    """Return a node's children to the pool, except one."""
    for action in range(trees.child.shape[1]):
        child = trees.child[node, action]
        if child >= 0 and child != keep:
            _free_node(trees, child)
    trees.child[node] = -1


@njit(nogil=True, cache=True)
def make_child(trees: Trees, tree: int, node: int, action: int) -> int:
    """Return the node after a legal move; creates it if needed, so one node must be free."""
    if trees.child[node, action] >= 0:
        return trees.child[node, action]
    child = _allocate_node(trees)
    trees.child[node, action] = child
    trees.parent[child], trees.move[child] = node, action
    trees.board[child] = trees.board[node]
    trees.info[child] = trees.info[node]
    go.play(trees.board[child], trees.info[child], action)
    if trees.info[child, go.PASSES] >= 2:
        trees.state[child] = OVER
        benson = trees.benson[0] != 0
        score = area_score(trees.board[child], trees.info[child], trees.komi[0], benson)
        trees.value[child] = 1.0 if score > 0 else -1.0
    else:
        _find_legal(trees, tree, child)
    return child


@njit(nogil=True, cache=True)
def _find_legal(trees: Trees, tree: int, node: int) -> None:
    """Find a node's legal moves, with superko over the game and the path from the root."""
    history = trees.history[tree]
    slots = np.empty(64, np.int64)
    used, above = 0, node
    if trees.info[node, go.CAPTURES] > 0:
        while trees.parent[above] >= 0:
            slot = go.add_to_history(history, trees.info[above, go.HASH])
            if slot >= 0:
                if used == len(slots):
                    longer = np.empty(2 * used, np.int64)
                    longer[:used] = slots
                    slots = longer
                slots[used] = slot
                used += 1
            above = trees.parent[above]
    go.legal_moves(trees.board[node], trees.info[node], history, trees.legal[node])
    while used > 0:
        used -= 1
        history[slots[used]] = 0


@njit(nogil=True, cache=True)
def advance(trees: Trees, tree: int, action: int) -> None:
    """Play a legal move in the game: the child becomes the root, all other branches are freed."""
    old = trees.root[tree]
    child = make_child(trees, tree, old, action)
    trees.root_n[tree] = trees.n[old, action]
    trees.root_w[tree] = trees.w[old, action]
    _free_below(trees, old, child)
    trees.parent[child] = trees.move[child] = -1
    trees.past[tree, 2] = trees.past[tree, 1]
    trees.past[tree, 1] = trees.past[tree, 0]
    trees.past[tree, 0] = trees.board[old, go.COLOUR]
    go.add_to_history(trees.history[tree], trees.info[child, go.HASH])
    trees.root[tree] = child
    _free_node(trees, old)


@njit(nogil=True, cache=True)
def clear_search(trees: Trees, tree: int) -> None:
    """Clear the search below a root, and the root's own statistics."""
    root = trees.root[tree]
    _free_below(trees, root, -1)
    trees.n[root] = 0
    trees.w[root] = 0.0
    if trees.state[root] == EXPANDED:
        trees.state[root] = UNEXPANDED
    trees.root_n[tree], trees.root_w[tree] = 0, 0.0
