"""Sums and steps of single rows of a large table on CPUs, as machine code.

Torch would sort the rows first, or add them one by one with the cost of an operator each.
Letters: N rows with repetitions, U different ones, R table rows, D width.
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


def collect_rows(sums_UD: Tensor, place_KT: Tensor, values_KTD: Tensor, seen: int) -> int:
    """Sum values that belong to the same row, block by block, into memory that is not cleared.

    Args:
        sums_UD: Sums so far, changed in place; rows from ``seen`` on need not be initialised.
        place_KT: Places from ``distinct``, in that order.
        values_KTD: What to add, of the sums' type; any strides.
        seen: Places of earlier blocks.

    Returns:
        Places seen now, for the next block.
    """
    collect = _compiled(_collect_rows)
    return collect(sums_UD.numpy(), place_KT.numpy(), values_KTD.numpy(), seen)


@cache
def _compiled(function: Any) -> Any:
    """A numeric function as machine code; imported late, as numba takes a second."""
    import numba

    return numba.njit(nogil=True)(function)


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


def _collect_rows(
    sums_UD: np.ndarray, place_KT: np.ndarray, values_KTD: np.ndarray, seen: int
) -> int:
    """A place that is new is the next number: it is filled, the others are added to."""
    for row in range(place_KT.shape[0]):
        for table in range(place_KT.shape[1]):
            place = place_KT[row, table]
            if place == seen:
                seen += 1
                for element in range(sums_UD.shape[1]):
                    sums_UD[place, element] = values_KTD[row, table, element]
            else:
                for element in range(sums_UD.shape[1]):
                    sums_UD[place, element] += values_KTD[row, table, element]
    return seen
