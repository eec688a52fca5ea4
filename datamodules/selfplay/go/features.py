"""The network's 13 input planes and the 8 symmetries of the board.

Facts: mlcommons/training @ 9947bdf2, reinforcement/tensorflow/minigo/cc/model/features.h
("mlperf07"); it is the C++ planes that count, not their Python twin. A is n*n + 1 actions.
"""

import numpy as np
from numba import njit

from datamodules.selfplay.go.board import (
    BLACK,
    COLOUR,
    EMPTY,
    HEAD,
    LIBS,
    SIZE,
    TO_PLAY,
    WHITE,
    cell_of,
)

PLANES = 13
HISTORY = 4  # the current board and three before it


def packed(planes: np.ndarray) -> np.ndarray:
    """Planes as bits: kept games take an eighth of the memory.

    Args:
        planes: (..., 13, n*n) uint8, 0 or 1.

    Returns:
        (..., 13, K) uint8, 8 points each; K = n*n / 8, rounded up.
    """
    return np.packbits(planes, axis=-1)


def unpacked(bits: np.ndarray, size: int) -> np.ndarray:
    """Planes again.

    Args:
        bits: What ``packed`` gave.
        size: Points per side, n.

    Returns:
        (..., 13, n*n) uint8.
    """
    return np.unpackbits(bits, axis=-1, count=size * size)


def symmetries(size: int) -> np.ndarray:
    """Index maps of the 8 symmetries, identity first.

    Args:
        size: Points per side.

    Returns:
        (8, A) int32: under symmetry s the new board's point i holds the old board's point
        ``maps[s, i]``; the pass stays where it is.
    """
    points = np.arange(size * size).reshape(size, size)
    turned = [np.rot90(side, k) for side in (points, points.T) for k in range(4)]
    maps = [np.append(board.reshape(-1), size * size) for board in turned]
    return np.asarray(maps, np.int32)


@njit(nogil=True, cache=True)
def write_planes(
    planes: np.ndarray,
    board: np.ndarray,
    info: np.ndarray,
    past: np.ndarray,
    num_past: int,
    legal: np.ndarray,
    order: np.ndarray,
) -> None:
    """Write the input planes of a position.

    Args:
        planes: (13, n*n) uint8, overwritten.
        board: (4, C) int16.
        info: (INFO,) int64.
        past: (3, C) colours of the boards before this one, newest first.
        num_past: How many of them exist; planes of missing boards are zero.
        legal: (A,) uint8 legal moves.
        order: (A,) row of ``symmetries``.
    """
    size, me = info[SIZE], info[TO_PLAY]
    step = size + 1
    planes[:] = 0
    for point in range(size * size):
        action = order[point]
        cell = cell_of(action, size)
        colour = board[COLOUR, cell]
        for age in range(num_past + 1):
            stone = colour if age == 0 else past[age - 1, cell]
            if stone != EMPTY:
                planes[2 * age + (stone != me), point] = 1
        planes[8, point] = me == BLACK
        if colour != EMPTY:
            liberties = board[LIBS, board[HEAD, cell]]
            planes[8 + min(liberties, 3), point] = 1
        elif legal[action]:
            for direction in range(4):
                near = cell + (1, -1, step, -step)[direction]
                theirs = board[COLOUR, near] == BLACK + WHITE - me
                if theirs and board[LIBS, board[HEAD, near]] == 1:
                    planes[12, point] = 1
