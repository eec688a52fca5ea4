"""The rules of Go for one board: chains with exact liberties, captures, positional superko.

A position is two arrays, so that many positions fit in one array and a copy is one ``memcpy``:
``board`` (4, C) int16 with the rows COLOUR, HEAD, NEXT, LIBS, and ``info`` (INFO,) int64.
C cells are the points of an n x n board with a border (row length n + 1), so that neighbours are
at fixed distances. Actions are 0 .. n*n - 1 in reading order, and n*n is the pass.

The history of positions is an open-addressing hash table, int64, a power of two long; 0 marks a
free slot.

Facts: mlcommons/training @ 9947bdf2, reinforcement/tensorflow/minigo/cc/position.cc. Differs:
the reference has no table that a search can extend and roll back.
"""

import numpy as np
from numba import njit

EMPTY, BLACK, WHITE, EDGE = 0, 1, 2, 3
COLOUR, HEAD, NEXT, LIBS = 0, 1, 2, 3
SIZE, HASH, TO_PLAY, PASSES, PLIES, CAPTURES = 0, 1, 2, 3, 4, 5
INFO = 6
MIN_SIZE, MAX_SIZE = 5, 19
MAX_PLIES = 2048  # longest game that the settings allow
# Not zero, which marks a free slot in a history table.
EMPTY_BOARD = 0x1B873593_5BD1E995

_CELLS = (MAX_SIZE + 2) * (MAX_SIZE + 1) + 1
ZOBRIST = np.random.default_rng(0x60).integers(-(2**63), 2**63 - 1, (3, _CELLS), dtype=np.int64)


def num_cells(size: int) -> int:
    """Return the number of cells C of a board with its border, or raise for an unsupported size."""
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f"board size must be {MIN_SIZE} to {MAX_SIZE}, got {size}")
    return (size + 2) * (size + 1) + 1


def history_length(size: int) -> int:
    """Return a power of two that ``MAX_PLIES`` positions fill at most by half."""
    return 1 << max(16 * size * size - 1, 2 * MAX_PLIES - 1).bit_length()


def new_position(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Create an empty board with Black to move, and the history that holds it.

    Args:
        size: Points per side, 5 to 19.

    Returns:
        board (4, C) int16, info (INFO,) int64 and the history table, int64.

    Raises:
        ValueError: If the size is not supported.
    """
    board = np.zeros((4, num_cells(size)), np.int16)
    info = np.zeros(INFO, np.int64)
    history = np.zeros(history_length(size), np.int64)
    clear(board, info, size)
    add_to_history(history, info[HASH])
    return board, info, history


@njit(nogil=True, cache=True)
def cell_of(action: int, size: int) -> int:
    """Return the index into the rows of ``board`` of an action (not the pass)."""
    return (action // size + 1) * (size + 1) + action % size + 1


@njit(nogil=True, cache=True)
def clear(board: np.ndarray, info: np.ndarray, size: int) -> None:
    """Reset a position to the empty board with Black to move."""
    board[:] = 0
    board[COLOUR, :] = EDGE
    for action in range(size * size):
        board[COLOUR, cell_of(action, size)] = EMPTY
    info[:] = 0
    info[SIZE] = size
    info[HASH] = EMPTY_BOARD
    info[TO_PLAY] = BLACK


@njit(nogil=True, cache=True)
def in_history(history: np.ndarray, key: int) -> bool:
    """Return whether a position's hash (not zero) is in a history table."""
    mask = len(history) - 1
    slot = (key ^ (key >> 29)) & mask
    while history[slot] != 0:
        if history[slot] == key:
            return True
        slot = (slot + 1) & mask
    return False


@njit(nogil=True, cache=True)
def add_to_history(history: np.ndarray, key: int) -> int:
    """Insert a position's hash into a history table, unless that would fill its last free slot.

    Returns the slot, or -1 if the position was there already or there is no room. Zeroing slots in
    reverse order restores the table.
    """
    mask = len(history) - 1
    slot = (key ^ (key >> 29)) & mask
    while history[slot] != 0:
        if history[slot] == key:
            return -1
        slot = (slot + 1) & mask
    # One slot stays free, as every search of the table ends at a free one.
    other = (slot + 1) & mask
    while history[other] != 0:
        other = (other + 1) & mask
    if other == slot:
        return -1
    history[slot] = key
    return slot


@njit(nogil=True, cache=True)
def _chain_hash(board: np.ndarray, head: int, colour: int) -> int:
    """Combine the Zobrist keys of all stones of a chain."""
    key, stone = np.int64(0), head
    while True:
        key ^= ZOBRIST[colour, stone]
        stone = board[NEXT, stone]
        if stone == head:
            return key


@njit(nogil=True, cache=True)
def _result_hash(board: np.ndarray, info: np.ndarray, cell: int) -> int:
    """Hash the position after a move on an empty cell; 0 if the move is suicide."""
    me, step = info[TO_PLAY], info[SIZE] + 1
    alive = False
    key = info[HASH] ^ ZOBRIST[me, cell]
    # Of up to four captured neighbours, those seen so far: a chain counts once.
    taken0 = taken1 = taken2 = -1
    for direction in range(4):
        near = cell + (1, -1, step, -step)[direction]
        colour = board[COLOUR, near]
        if colour == EMPTY:
            alive = True
        elif colour != EDGE:
            head = board[HEAD, near]
            if colour == me:
                alive = alive or board[LIBS, head] > 1
            elif board[LIBS, head] == 1 and head not in (taken0, taken1, taken2):
                alive = True
                key ^= _chain_hash(board, head, colour)
                taken0, taken1, taken2 = head, taken0, taken1
    return key if alive else np.int64(0)  # type: ignore[return-value]


@njit(nogil=True, cache=True)
def is_legal(board: np.ndarray, info: np.ndarray, history: np.ndarray, action: int) -> bool:
    """Return whether a move is legal: empty point, no suicide, no repeated position.

    Args:
        board: (4, C) int16.
        info: (INFO,) int64.
        history: Table with every position so far, this one included.
        action: 0 to n*n; the pass is always legal.

    Returns:
        True if it is legal.
    """
    size = info[SIZE]
    if action == size * size:
        return True
    cell = cell_of(action, size)
    if board[COLOUR, cell] != EMPTY:
        return False
    key = _result_hash(board, info, cell)
    return key != 0 and not in_history(history, key)


@njit(nogil=True, cache=True)
def legal_moves(board: np.ndarray, info: np.ndarray, history: np.ndarray, legal: np.ndarray) -> int:
    """Find all legal moves, superko included.

    Args:
        board: (4, C) int16.
        info: (INFO,) int64.
        history: Table with every position so far, this one included.
        legal: (n*n + 1,) uint8, overwritten with 1 for legal and 0 for illegal.

    Returns:
        Number of legal moves, the pass included.
    """
    size = info[SIZE]
    # Before the first capture no point was ever emptied, so no position can repeat.
    repeats = info[CAPTURES] > 0
    count = 1
    cell = size + 1
    action = 0
    for _row in range(size):
        for _column in range(size):
            cell += 1
            legal[action] = 0
            if board[COLOUR, cell] == EMPTY:
                key = _result_hash(board, info, cell)
                if key != 0 and not (repeats and in_history(history, key)):
                    legal[action] = 1
                    count += 1
            action += 1
        cell += 1
    legal[action] = 1
    return count


@njit(nogil=True, cache=True)
def _count_liberties(board: np.ndarray, head: int, step: int) -> int:
    """Count a chain's liberties, marking empty cells in LIBS on the way and resetting them."""
    count, stone = 0, head
    while True:
        for direction in range(4):
            near = stone + (1, -1, step, -step)[direction]
            if board[COLOUR, near] == EMPTY and board[LIBS, near] == 0:
                board[LIBS, near] = 1
                count += 1
        stone = board[NEXT, stone]
        if stone == head:
            break
    while True:
        for direction in range(4):
            near = stone + (1, -1, step, -step)[direction]
            if board[COLOUR, near] == EMPTY:
                board[LIBS, near] = 0
        stone = board[NEXT, stone]
        if stone == head:
            return count


@njit(nogil=True, cache=True)
def _touches(board: np.ndarray, cell: int, head: int, me: int, step: int) -> bool:
    """Return whether a cell is adjacent to a chain."""
    for direction in range(4):
        near = cell + (1, -1, step, -step)[direction]
        if board[COLOUR, near] == me and board[HEAD, near] == head:
            return True
    return False


@njit(nogil=True, cache=True)
def _join(board: np.ndarray, cell: int, me: int, step: int) -> None:
    """Put a stone on an empty cell and merge it with the adjacent chains of its colour."""
    first, merged, fresh = -1, False, 0
    for direction in range(4):
        near = cell + (1, -1, step, -step)[direction]
        if board[COLOUR, near] == me:
            head = board[HEAD, near]
            if first < 0:
                first = head
            elif head != first:
                _absorb(board, first, head)
                merged = True
    # The usual case, one chain that grows: count its new liberties instead of walking along it.
    if first >= 0 and not merged:
        for direction in range(4):
            near = cell + (1, -1, step, -step)[direction]
            if board[COLOUR, near] == EMPTY and not _touches(board, near, first, me, step):
                fresh += 1
    board[COLOUR, cell] = me
    if first < 0:
        board[HEAD, cell] = cell
        board[NEXT, cell] = cell
        board[LIBS, cell] = _count_liberties(board, cell, step)
        return
    board[HEAD, cell] = first
    board[NEXT, cell] = board[NEXT, first]
    board[NEXT, first] = cell
    if merged:
        board[LIBS, first] = _count_liberties(board, first, step)
    else:
        board[LIBS, first] += fresh - 1  # the stone took one of them


@njit(nogil=True, cache=True)
def _absorb(board: np.ndarray, head: int, other: int) -> None:
    """Merge one chain's stones into another; the caller updates the liberties."""
    stone = other
    while True:
        board[HEAD, stone] = head
        stone = board[NEXT, stone]
        if stone == other:
            break
    board[NEXT, head], board[NEXT, other] = board[NEXT, other], board[NEXT, head]


@njit(nogil=True, cache=True)
def _capture(board: np.ndarray, head: int, me: int, step: int) -> int:
    """Remove a chain of the other colour and return the number of its stones."""
    count, stone = 0, head
    while True:
        count += 1
        following = board[NEXT, stone]
        board[COLOUR, stone] = EMPTY
        board[LIBS, stone] = 0
        heads0 = heads1 = heads2 = -1
        for direction in range(4):
            near = stone + (1, -1, step, -step)[direction]
            if board[COLOUR, near] == me:
                mine = board[HEAD, near]
                if mine not in (heads0, heads1, heads2):
                    board[LIBS, mine] += 1
                    heads0, heads1, heads2 = mine, heads0, heads1
        stone = following
        if stone == head:
            return count


@njit(nogil=True, cache=True)
def play(board: np.ndarray, info: np.ndarray, action: int) -> int:
    """Play a legal move or the pass.

    Args:
        board: (4, C) int16, changed.
        info: (INFO,) int64, changed.
        action: A legal action; legality is not checked.

    Returns:
        Number of stones captured.
    """
    me, size = info[TO_PLAY], info[SIZE]
    info[TO_PLAY] = BLACK + WHITE - me
    info[PLIES] += 1
    if action == size * size:
        info[PASSES] += 1
        return 0
    info[PASSES] = 0
    step = size + 1
    cell = cell_of(action, size)
    info[HASH] = _result_hash_of_legal(board, info[HASH], cell, me, step)
    # The stone comes first: chains taken off then return their cells to it as liberties.
    _join(board, cell, me, step)
    captured = 0
    lost0 = lost1 = lost2 = -1
    for direction in range(4):
        near = cell + (1, -1, step, -step)[direction]
        if board[COLOUR, near] == BLACK + WHITE - me:
            head = board[HEAD, near]
            if head not in (lost0, lost1, lost2):
                lost0, lost1, lost2 = head, lost0, lost1
                board[LIBS, head] -= 1
                if board[LIBS, head] == 0:
                    captured += _capture(board, head, me, step)
    info[CAPTURES] += captured
    return captured


@njit(nogil=True, cache=True)
def _result_hash_of_legal(board: np.ndarray, key: int, cell: int, me: int, step: int) -> int:
    """Hash the position after a legal move, before it is played."""
    key ^= ZOBRIST[me, cell]
    taken0 = taken1 = taken2 = -1
    for direction in range(4):
        near = cell + (1, -1, step, -step)[direction]
        if board[COLOUR, near] == BLACK + WHITE - me:
            head = board[HEAD, near]
            if board[LIBS, head] == 1 and head not in (taken0, taken1, taken2):
                key ^= _chain_hash(board, head, BLACK + WHITE - me)
                taken0, taken1, taken2 = head, taken0, taken1
    return key


@njit(nogil=True, cache=True)
def splitmix(state: np.ndarray) -> int:
    """Return the next uint64 of Sebastiano Vigna's splitmix64; state is (1,) uint64."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(nogil=True, cache=True)
def uniform(state: np.ndarray) -> float:
    """Return the next random float in [0, 1); state is (1,) uint64."""
    return (splitmix(state) >> np.uint64(11)) * (1.0 / 9007199254740992.0)
