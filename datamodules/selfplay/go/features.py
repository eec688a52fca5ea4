"""The network's 13 input planes and the 8 symmetries of the board.

Facts: mlcommons/training @ 9947bdf2, reinforcement/tensorflow/minigo/cc/model/features.h
("mlperf07"); where its Python twin disagrees, the C++ planes decide. A is n*n + 1 actions.
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


def pack_planes(planes: np.ndarray) -> np.ndarray:
    """Pack planes into bits, an eighth of the memory.

    Args:
        planes: (..., 13, n*n) uint8, 0 or 1.

    Returns:
        (..., 13, K) uint8, 8 points each; K = n*n / 8, rounded up.
    """
    return np.packbits(planes, axis=-1)


def unpack_planes(bits: np.ndarray, size: int) -> np.ndarray:
    """Undo ``pack_planes``.

    Args:
        bits: (..., 13, K) uint8.
        size: Points per side, n.

    Returns:
        (..., 13, n*n) uint8.
    """
    return np.unpackbits(bits, axis=-1, count=size * size)


def symmetries(size: int) -> np.ndarray:
    """Return the index maps of the 8 symmetries, identity first.

    Args:
        size: Points per side.

    Returns:
        (8, A) int32: under symmetry s the new board's point i is the old board's point
        ``maps[s, i]``; the pass maps to itself.
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
    """Write the 13 input planes of a position.

    ``past`` is (3, C), the colours of the last boards, newest first, of which ``num_past`` exist
    (planes of missing boards are zero); ``order`` is a row of ``symmetries``.
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
