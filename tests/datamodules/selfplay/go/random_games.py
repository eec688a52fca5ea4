"""Random games of the compiled board, for the tests of its rules and speed."""

import numpy as np
from numba import njit

from datamodules.selfplay.go import board as go


@njit(nogil=True, cache=True)
def random_games(size: int, moves: int, seed: int) -> tuple[int, int]:
    """Play `moves` uniformly random legal moves (passes only where nothing else is legal).

    Every move computes the full mask of legal moves with superko. A game ends after two passes or
    3 x n x n moves. Returns the number of games finished and of stones captured.
    """
    cells = (size + 2) * (size + 1) + 1
    board, info = np.zeros((4, cells), np.int16), np.zeros(go.INFO, np.int64)
    length = 64
    while length < 16 * size * size:
        length *= 2
    history = np.zeros(length, np.int64)
    places = np.zeros(3 * size * size + 2, np.int64)
    legal = np.zeros(size * size + 1, np.uint8)
    state = np.full(1, seed, np.uint64)
    games = captured = used = 0
    go.clear(board, info, size)
    go.add_to_history(history, info[go.HASH])
    for _ in range(moves):
        count = go.legal_moves(board, info, history, legal)
        action = size * size
        if count > 1:
            skip = np.int64(go.splitmix(state) % np.uint64(count - 1))
            action = -1
            while skip >= 0:
                action += 1
                skip -= legal[action]
        captured += go.play(board, info, action)
        if action < size * size:
            places[used] = go.add_to_history(history, info[go.HASH])
            used += 1
        if info[go.PASSES] >= 2 or info[go.PLIES] >= 3 * size * size:
            games += 1
            while used > 0:
                used -= 1
                history[places[used]] = 0
            go.clear(board, info, size)
    return games, captured
