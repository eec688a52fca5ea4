"""Plays random moves and checks each against a board of plain colours; compiled, or it takes hours.

The plain board shares nothing with the engine but the layout of cells.
"""

import numpy as np
from numba import njit

from datamodules.selfplay.go import board as go

RIGHT, HASH, CHAINS, LIBERTIES, CAPTURED, LEGAL, REPEATED = range(7)
WORDS = ("", "hash", "chains", "liberties", "captures or stones", "legal moves", "repetition")


@njit(nogil=True, cache=True)
def flood(colours, start, step, label, number, stack, seen):
    """Label a chain and count its liberties; ``seen`` is at least ``number`` only for its own."""
    me, top, free = colours[start], 1, 0
    stack[0], label[start] = start, number
    while top > 0:
        top -= 1
        cell = stack[top]
        for near in (cell + 1, cell - 1, cell + step, cell - step):
            if colours[near] == go.EMPTY and seen[near] != number:
                seen[near] = number
                free += 1
            elif colours[near] == me and label[near] != number:
                label[near] = number
                stack[top] = near
                top += 1
    return free


@njit(nogil=True, cache=True)
def put(colours, cell, me, step, label, stack, seen):
    """Play on the plain board; gives the captured stones, or -1 for suicide (board unusable)."""
    colours[cell] = me
    captured, number = 0, 0
    label[:] = 0
    seen[:] = 0
    for near in (cell + 1, cell - 1, cell + step, cell - step):
        if colours[near] == 3 - me:
            number += 1
            if flood(colours, near, step, label, number, stack, seen) == 0:
                for other in range(len(colours)):
                    if label[other] == number:
                        colours[other] = go.EMPTY
                        captured += 1
    return captured if flood(colours, cell, step, label, 9, stack, seen) > 0 else -1


@njit(nogil=True, cache=True)
def hash_of(colours):
    """Zobrist hash of the colours."""
    key = np.int64(go.EMPTY_BOARD)
    for cell in range(len(colours)):
        if colours[cell] in (go.BLACK, go.WHITE):
            key ^= go.ZOBRIST[colours[cell], cell]
    return key


@njit(nogil=True, cache=True)
def wrong_chains(board, size, label, stack, seen):
    """Whether chains or liberties differ from a flood fill's."""
    colours, number, step = board[go.COLOUR], 0, size + 1
    label[:] = 0
    seen[:] = 0
    for action in range(size * size):
        cell = go.cell_of(action, size)
        if colours[cell] == go.EMPTY:
            continue
        if label[cell] == 0:
            number += 1
            free = flood(colours, cell, step, label, number, stack, seen)
            if free == 0 or board[go.LIBS, board[go.HEAD, cell]] != free:
                return LIBERTIES
        if label[board[go.HEAD, cell]] != label[cell]:
            return CHAINS
    # No two chains may share a head.
    for action in range(size * size):
        cell = go.cell_of(action, size)
        if colours[cell] != go.EMPTY:
            for near in (cell + 1, cell - 1, cell + step, cell - step):
                same = colours[near] == colours[cell]
                if same != (
                    colours[near] in (go.BLACK, go.WHITE)
                    and board[go.HEAD, near] == board[go.HEAD, cell]
                ):
                    return CHAINS
    return RIGHT


@njit(nogil=True, cache=True)
def may_play(plain, trial, history, cell, me, step, label, stack, seen):
    """Legality on the plain board."""
    if plain[cell] != go.EMPTY:
        return False
    trial[:] = plain
    lives = put(trial, cell, me, step, label, stack, seen) >= 0
    return lives and not go.in_history(history, hash_of(trial))


@njit(nogil=True, cache=True)
def a_legal_move(legal, first):
    """The first legal point from one on, going round; the pass if there is none."""
    points = len(legal) - 1
    for shift in range(points):
        if legal[(first + shift) % points]:
            return (first + shift) % points
    return points


@njit(nogil=True, cache=True)
def fuzz(board, info, history, legal, moves, seed):
    """Play random moves, a new game after 4 x n x n plies; gives what went wrong, and captures."""
    size = info[go.SIZE]
    points, step = size * size, size + 1
    plain, trial = board[go.COLOUR].copy(), board[go.COLOUR].copy()
    label, stack = np.zeros(len(plain), np.int64), np.zeros(len(plain), np.int64)
    seen = np.zeros(len(plain), np.int64)
    state, captures = np.full(1, seed, np.uint64), 0
    for _ in range(moves):
        if info[go.PLIES] >= 4 * points:
            go.clear(board, info, size)
            plain[:] = board[go.COLOUR]
            history[:] = 0
            go.add_to_history(history, info[go.HASH])
        go.legal_moves(board, info, history, legal)
        me, action = info[go.TO_PLAY], np.int64(go.splitmix(state) % np.uint64(points))
        cell = go.cell_of(action, size)
        allowed = may_play(plain, trial, history, cell, me, step, label, stack, seen)
        if allowed != (legal[action] == 1):
            return LEGAL, captures
        action = a_legal_move(legal, action)
        taken = go.play(board, info, action)
        captures += taken
        if action < points:
            expected = put(plain, go.cell_of(action, size), me, step, label, stack, seen)
            if expected != taken or (plain != board[go.COLOUR]).any():
                return CAPTURED, captures
            if go.add_to_history(history, info[go.HASH]) < 0:
                return REPEATED, captures
        wrong = HASH if hash_of(plain) != info[go.HASH] else RIGHT
        wrong = max(wrong, wrong_chains(board, size, label, stack, seen))
        if wrong != RIGHT:
            return wrong, captures
    return RIGHT, captures
