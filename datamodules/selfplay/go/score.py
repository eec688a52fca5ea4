"""Area scoring with pass-alive regions, as Mini Go counts every finished game.

The reference's rule differs from Benson's in one place (``_sound_regions``): it counts some chains
as alive that a search can kill. The closed benchmark is the reference's game, so its rule is the
default. C is the number of cells of a board.

Facts: mlcommons/training @ 9947bdf2, reinforcement/tensorflow/minigo/cc/position.cc and
D. B. Benson, "Life in the game of Go" (1976).
"""

import numpy as np
from numba import njit

from datamodules.selfplay.go.board import BLACK, COLOUR, EDGE, EMPTY, HEAD, SIZE, WHITE, cell_of


@njit(nogil=True, cache=True)
def pass_alive(
    board: np.ndarray, info: np.ndarray, owner: np.ndarray, benson: bool = False
) -> bool:
    """Find the regions that belong to a colour no matter how the other one plays.

    Args:
        board: (4, C) int16.
        info: (INFO,) int64.
        owner: (C,) int8, overwritten: BLACK or WHITE on the points of pass-alive regions (stones
            of the other colour included), else 0.
        benson: Benson's rule instead of the reference's.

    Returns:
        True if every empty point is in such a region.
    """
    owner[:] = 0
    for colour in (BLACK, WHITE):
        _pass_alive_of(board, info[SIZE], colour, owner, benson)
    for action in range(info[SIZE] * info[SIZE]):
        cell = cell_of(action, info[SIZE])
        if board[COLOUR, cell] == EMPTY and owner[cell] == 0:
            return False
    return True


@njit(nogil=True, cache=True)
def _label_regions(
    board: np.ndarray, size: int, colour: int, label: np.ndarray, stack: np.ndarray
) -> int:
    """Number the connected sets of points without stones of a colour, from 1."""
    count, step = 0, size + 1
    label[:] = 0
    for action in range(size * size):
        start = cell_of(action, size)
        if board[COLOUR, start] == colour or label[start] != 0:
            continue
        count += 1
        label[start] = count
        stack[0], top = start, 1
        while top > 0:
            top -= 1
            cell = stack[top]
            for direction in range(4):
                near = cell + (1, -1, step, -step)[direction]
                there = board[COLOUR, near]
                if there not in (colour, EDGE) and label[near] == 0:
                    label[near] = count
                    stack[top] = near
                    top += 1
    return count


@njit(nogil=True, cache=True)
def _borders(
    board: np.ndarray, size: int, colour: int, label: np.ndarray, regions: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Find which chains border which region, and how many of its empty points each touches."""
    step = size + 1
    chain_of = np.zeros(board.shape[1], np.int32)
    chains = 0
    for action in range(size * size):
        cell = cell_of(action, size)
        if board[COLOUR, cell] == colour and board[HEAD, cell] == cell:
            chains += 1
            chain_of[cell] = chains
    border = np.zeros((regions + 1, chains + 1), np.uint8)
    touched = np.zeros((regions + 1, chains + 1), np.int32)
    empties, lonely = np.zeros(regions + 1, np.int32), np.zeros(regions + 1, np.int32)
    for action in range(size * size):
        cell = cell_of(action, size)
        region = label[cell]
        if region == 0:
            continue
        is_empty = board[COLOUR, cell] == EMPTY
        next0 = next1 = next2 = 0
        for direction in range(4):
            near = cell + (1, -1, step, -step)[direction]
            if board[COLOUR, near] == colour:
                chain = chain_of[board[HEAD, near]]
                border[region, chain] = 1
                if chain not in (next0, next1, next2):
                    next0, next1, next2 = chain, next0, next1
                    touched[region, chain] += is_empty
        empties[region] += is_empty
        lonely[region] += is_empty and next0 == 0
    return border, touched, empties, lonely


@njit(nogil=True, cache=True)
def _sound_regions(
    border: np.ndarray, touched: np.ndarray, empties: np.ndarray, benson: bool
) -> np.ndarray:
    """Drop chains with fewer than two vital regions; return the regions that no such one borders.

    ``counts`` marks the regions that may still be vital to a chain.
    """
    regions, chains = border.shape[0] - 1, border.shape[1] - 1
    alive, sound = np.ones(chains + 1, np.uint8), np.ones(regions + 1, np.uint8)
    counts = sound.copy()
    changed = True
    while changed:
        changed = False
        for chain in range(1, chains + 1):
            if alive[chain] == 0:
                continue
            vital = 0
            for region in range(1, regions + 1):
                if counts[region] and border[region, chain]:
                    vital += touched[region, chain] == empties[region]
            if vital < 2:
                alive[chain], changed = 0, True
                for region in range(1, regions + 1):
                    if border[region, chain]:
                        sound[region] = 0
                        # The reference's quirk: it walks the dropped chain's liberties, so a region
                        # that the chain borders only at stones stays vital to others. Benson's rule
                        # drops every bordering region.
                        if benson or touched[region, chain] > 0:
                            counts[region] = 0
    return sound


@njit(nogil=True, cache=True)
def _pass_alive_of(
    board: np.ndarray, size: int, colour: int, owner: np.ndarray, benson: bool
) -> None:
    """Mark the pass-alive regions of one colour in ``owner``."""
    label = np.zeros(board.shape[1], np.int32)
    stack = np.zeros(board.shape[1], np.int32)
    regions = _label_regions(board, size, colour, label, stack)
    border, touched, empties, lonely = _borders(board, size, colour, label, regions)
    sound = _sound_regions(border, touched, empties, benson)
    for action in range(size * size):
        cell = cell_of(action, size)
        region = label[cell]
        if region and sound[region] and lonely[region] <= 1 and border[region].max() > 0:
            owner[cell] = colour


@njit(nogil=True, cache=True)
def _flood(
    board: np.ndarray,
    owner: np.ndarray,
    size: int,
    start: int,
    reached: np.ndarray,
    stack: np.ndarray,
) -> tuple[int, int]:
    """Return the size of an unowned region and the colours that border it, as bits."""
    step = size + 1
    reached[start] = 1
    stack[0], top, points, seen = start, 1, 0, 0
    while top > 0:
        top -= 1
        cell = stack[top]
        points += 1
        for direction in range(4):
            near = cell + (1, -1, step, -step)[direction]
            if board[COLOUR, near] == EDGE or reached[near]:
                continue
            if owner[near] != EMPTY:
                seen |= owner[near]  # BLACK is 1 and WHITE 2, so 3 means both: nobody's points
            else:
                reached[near] = 1
                stack[top] = near
                top += 1
    return points, seen


@njit(nogil=True, cache=True)
def area_score(board: np.ndarray, info: np.ndarray, komi: float, benson: bool = False) -> float:
    """Return Black's points minus White's; pass-alive regions count for their owners.

    Args:
        board: (4, C) int16.
        info: (INFO,) int64.
        komi: Points that White gets for moving second.
        benson: Benson's rule for pass-alive regions instead of the reference's.

    Returns:
        The difference; Black wins if it is greater than 0.
    """
    size = info[SIZE]
    owner = np.zeros(board.shape[1], np.int8)
    pass_alive(board, info, owner, benson)
    reached, stack = np.zeros(board.shape[1], np.int32), np.zeros(board.shape[1], np.int32)
    for action in range(size * size):
        cell = cell_of(action, size)
        if owner[cell] == 0:
            owner[cell] = board[COLOUR, cell]
    # From here on a stone inside the other colour's pass-alive region is a point of that colour.
    score = -komi
    for action in range(size * size):
        cell = cell_of(action, size)
        if owner[cell] == EMPTY and reached[cell] == 0:
            points, seen = _flood(board, owner, size, cell, reached, stack)
            score += points * ((seen == BLACK) - (seen == WHITE))
        elif owner[cell] != EMPTY:
            score += 1.0 if owner[cell] == BLACK else -1.0
    return score
