"""Lookups, sums and steps of single rows of a large table on CPUs, as machine code.

Torch would sort the rows first, or add them one by one with the cost of an operator each.
Letters: N rows with repetitions, U different ones, R table rows, D width; B samples, K of a block,
T tables, F = T + 1 features, X columns of an output.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

_SPREAD = -7046029254386353131  # 2^64 / golden ratio, odd: neighbours land far from each other


def distinct(rows_N: Tensor) -> tuple[Tensor, Tensor]:
    """Different rows in order of first appearance, found by hashing instead of sorting.

    Args:
        rows_N: int64, at least 0, on the CPU.

    Returns:
        rows_U: int64, each once.
        place_N: int64 position of each of ``rows_N`` in ``rows_U``.
    """
    count = rows_N.numel()
    size = 1 << (2 * count + 1).bit_length()  # at most half full
    keys, values = np.full(size, -1), np.empty(size, np.int64)
    rows_U, place_N = torch.empty_like(rows_N), torch.empty_like(rows_N)
    found = _compiled(_distinct)(rows_N.numpy(), keys, values, rows_U.numpy(), place_N.numpy())
    return rows_U[:found], place_N


def add_rows(sums_RD: Tensor, rows_N: Tensor, values_ND: Tensor, factor: float = 1.0) -> None:
    """Add ``factor`` times each value to its row, in order, so that repeated rows add up.

    Args:
        sums_RD: Changed in place; float32 or float64 on the CPU, contiguous.
        rows_N: int64 in ``[0, R)``, not checked.
        values_ND: What to add, of the same type.
        factor: Number to multiply with.
    """
    add, sums = _compiled(_add_rows), sums_RD.detach().numpy()
    add(sums, rows_N.numpy(), values_ND.numpy(), sums.dtype.type(factor))


def checked_rows(rows_BT: Tensor, num_rows: int) -> Tensor:
    """Refuse rows outside the table, which the functions below would read or write blindly.

    Args:
        rows_BT: int64, on the CPU.
        num_rows: R.

    Returns:
        rows_BT: The same, contiguous.

    Raises:
        IndexError: If a row is negative or at least ``num_rows``.
    """
    if rows_BT.numel():
        least, most = rows_BT.aminmax()
        if int(least) < 0 or int(most) >= num_rows:
            raise IndexError(f"rows {int(least)} to {int(most)} of a table of {num_rows} rows")
    return rows_BT.contiguous()


def interact_rows(dense_BD: Tensor, weight_RD: Tensor, rows_BT: Tensor, out_BX: Tensor) -> None:
    """Fill an output with dense vectors and all products of them and of rows of a table.

    Args:
        dense_BD: First feature of each sample; of the table's type, contiguous like all the others.
        weight_RD: The table.
        rows_BT: Rows from ``checked_rows``.
        out_BX: Filled; X = D + F (F - 1) / 2, pairs (1, 0), (2, 0), (2, 1), (3, 0) ...
    """
    arrays = (x.detach().numpy() for x in (dense_BD, weight_RD, rows_BT, out_BX))
    _compiled(_interact_rows)(*arrays)


def load_block(
    start: int,
    dense_BD: np.ndarray,
    weight_RD: np.ndarray,
    rows_BT: np.ndarray,
    grad_BX: np.ndarray,
    vectors_KFD: np.ndarray,
    square_KFF: np.ndarray,
) -> None:
    """Gather the vectors of some samples and make their pairs' gradients a symmetric square.

    Args:
        start: The block's first sample.
        dense_BD: Dense vectors of the whole batch; contiguous like all the others.
        weight_RD: The table.
        rows_BT: Rows from ``checked_rows``.
        grad_BX: Gradient of ``out_BX`` of ``interact_rows``.
        vectors_KFD: Filled with dense vectors and, behind them, rows.
        square_KFF: Filled; its diagonal with zeros.
    """
    load = _compiled(_load_block)
    load(start, dense_BD, weight_RD, rows_BT, grad_BX, vectors_KFD, square_KFF)


def collect_rows(
    start: int,
    seen: int,
    place_BT: np.ndarray,
    grad_KFD: np.ndarray,
    sums_UD: np.ndarray,
    grad_dense_BD: np.ndarray,
) -> int:
    """Sum values that belong to the same row, block by block, into memory that is not cleared.

    Args:
        start: The block's first sample.
        seen: Places of earlier blocks.
        place_BT: Places of the whole batch from ``distinct``, in that order.
        grad_KFD: Values of a block, of the sums' type.
        sums_UD: Sums so far, changed in place; rows from ``seen`` on need not be initialised.
        grad_dense_BD: Values of the first feature, which is no row, are added to this.

    Returns:
        Places seen now, for the next block.
    """
    collect = _compiled(_collect_rows)
    return collect(start, seen, place_BT, grad_KFD, sums_UD, grad_dense_BD)


@cache
def _compiled(function: Any) -> Any:
    """A numeric function as machine code; imported late, as numba takes a second."""
    import numba

    # Sums may be taken in any order, which vector units need; NaN and infinity stay what they are.
    return numba.njit(nogil=True, fastmath={"reassoc", "contract"})(function)


def _distinct(
    rows_N: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    rows_U: np.ndarray,
    place_N: np.ndarray,
) -> int:
    """Fill ``rows_U`` and ``place_N`` through a hash table of ``keys`` (-1 is free)."""
    mask, found = len(keys) - 1, 0
    for position in range(len(rows_N)):
        row = rows_N[position]
        slot = (row * _SPREAD >> 24) & mask
        while keys[slot] != row and keys[slot] >= 0:
            slot = (slot + 1) & mask
        if keys[slot] < 0:
            keys[slot], values[slot], rows_U[found] = row, found, row
            found += 1
        place_N[position] = values[slot]
    return found


def _add_rows(sums_RD: np.ndarray, rows_N: np.ndarray, values_ND: np.ndarray, factor: Any) -> None:
    """``sums[rows[n]] += factor * values[n]`` for one n after the other."""
    for position in range(len(rows_N)):
        row = rows_N[position]
        for element in range(values_ND.shape[1]):
            sums_RD[row, element] += factor * values_ND[position, element]


def _interact_rows(
    dense_BD: np.ndarray, weight_RD: np.ndarray, rows_BT: np.ndarray, out_BX: np.ndarray
) -> None:
    """One sample after the other: its vectors stay in the first-level cache for all products."""
    num_rows, width = dense_BD.shape
    num_features = rows_BT.shape[1] + 1
    vectors_FD = np.empty((num_features, width), weight_RD.dtype)
    for sample in range(num_rows):
        for element in range(width):
            vectors_FD[0, element] = out_BX[sample, element] = dense_BD[sample, element]
        for feature in range(1, num_features):
            row = rows_BT[sample, feature - 1]
            for element in range(width):
                vectors_FD[feature, element] = weight_RD[row, element]
        column = width
        for i in range(1, num_features):
            j = 0
            while j + 4 <= i:  # four at once: vector i is loaded once for them
                a = b = c = d = vectors_FD.dtype.type(0)
                for element in range(width):
                    value = vectors_FD[i, element]
                    a += value * vectors_FD[j, element]
                    b += value * vectors_FD[j + 1, element]
                    c += value * vectors_FD[j + 2, element]
                    d += value * vectors_FD[j + 3, element]
                out_BX[sample, column + j] = a
                out_BX[sample, column + j + 1] = b
                out_BX[sample, column + j + 2] = c
                out_BX[sample, column + j + 3] = d
                j += 4
            while j < i:
                a = vectors_FD.dtype.type(0)
                for element in range(width):
                    a += vectors_FD[i, element] * vectors_FD[j, element]
                out_BX[sample, column + j] = a
                j += 1
            column += i


def _load_block(
    start: int,
    dense_BD: np.ndarray,
    weight_RD: np.ndarray,
    rows_BT: np.ndarray,
    grad_BX: np.ndarray,
    vectors_KFD: np.ndarray,
    square_KFF: np.ndarray,
) -> None:
    """Elements, as slices cost an object each; two loops, as gathers overlap only one another."""
    num_samples, num_features, width = vectors_KFD.shape
    for sample in range(num_samples):
        for element in range(width):
            vectors_KFD[sample, 0, element] = dense_BD[start + sample, element]
        for i in range(1, num_features):
            row = rows_BT[start + sample, i - 1]
            for element in range(width):
                vectors_KFD[sample, i, element] = weight_RD[row, element]
    for sample in range(num_samples):
        column = width
        for i in range(num_features):
            square_KFF[sample, i, i] = 0
            for j in range(i):
                value = grad_BX[start + sample, column]
                square_KFF[sample, i, j] = square_KFF[sample, j, i] = value
                column += 1


def _collect_rows(
    start: int,
    seen: int,
    place_BT: np.ndarray,
    grad_KFD: np.ndarray,
    sums_UD: np.ndarray,
    grad_dense_BD: np.ndarray,
) -> int:
    """A place that is new is the next number: it is filled, the others are added to."""
    num_samples, num_features, width = grad_KFD.shape
    for sample in range(num_samples):
        for element in range(width):
            grad_dense_BD[start + sample, element] += grad_KFD[sample, 0, element]
        for feature in range(1, num_features):
            place = place_BT[start + sample, feature - 1]
            if place == seen:
                seen += 1
                for element in range(width):
                    sums_UD[place, element] = grad_KFD[sample, feature, element]
            else:
                for element in range(width):
                    sums_UD[place, element] += grad_KFD[sample, feature, element]
    return seen
