"""Numbers for 32-bit categories in order of first appearance, by a hash table that grows.

Letters: N values of a chunk, K known categories.
"""

from typing import Any

import numpy as np

from datamodules.criteo.text import compiled

FIRST_NUMBER = 2  # the reference leaves 0 and 1 unused
FIRST_SLOTS = 1 << 12
# Of the slots that may be taken: beyond it, searching for a free one takes long.
FULL_NUMERATOR, FULL_DENOMINATOR = 5, 8


class Numbering:
    """A column's categories and their numbers; 7 bytes per slot and at most 10 per category."""

    def __init__(self) -> None:
        self.num_known = 0
        self._slots = np.zeros(FIRST_SLOTS, np.int32)
        self._known = np.empty(_most(FIRST_SLOTS), np.uint32)

    def __call__(self, values_N: np.ndarray) -> np.ndarray:
        """Number a chunk.

        Args:
            values_N: uint32 categories.

        Returns:
            numbers_N: int32, from 2 on, by first appearance over all calls.
        """
        numbers_N, done = np.empty(len(values_N), np.int32), 0
        while True:
            done, self.num_known = compiled(_number)(
                values_N, done, self._slots, self._known, self.num_known, numbers_N
            )
            if done == len(values_N):
                return numbers_N
            self._grow()

    def known(self) -> np.ndarray:
        """Return the categories by number: uint32 (K,), element 0 being the one of number 2."""
        return self._known[: self.num_known]

    def _grow(self) -> None:
        slots = np.zeros(2 * len(self._slots), np.int32)
        known = np.empty(_most(len(slots)), np.uint32)
        known[: self.num_known] = self.known()
        self._slots, self._known = slots, known
        compiled(_insert)(slots, known, self.num_known)


def _most(num_slots: int) -> int:
    return num_slots * FULL_NUMERATOR // FULL_DENOMINATOR


def _number(
    values: Any, start: int, slots: Any, known: Any, num_known: int, numbers: Any
) -> tuple[int, int]:
    """Number values from ``start`` on until all are, or ``known`` is full; return both counts."""
    mask = len(slots) - 1
    for position in range(start, len(values)):
        value = values[position]
        # The product's high bits depend on all of the value's.
        slot = (np.uint64(value) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)) & np.uint64(mask)
        while slots[slot] and known[slots[slot] - FIRST_NUMBER] != value:
            slot = (slot + np.uint64(1)) & np.uint64(mask)
        if not slots[slot]:
            if num_known == len(known):
                return position, num_known
            known[num_known] = value
            slots[slot] = num_known + FIRST_NUMBER
            num_known += 1
        numbers[position] = slots[slot]
    return len(values), num_known


def _insert(slots: Any, known: Any, num_known: int) -> None:
    """Put known categories into empty slots."""
    mask = len(slots) - 1
    for position in range(num_known):
        value = known[position]
        slot = (np.uint64(value) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)) & np.uint64(mask)
        while slots[slot]:
            slot = (slot + np.uint64(1)) & np.uint64(mask)
        slots[slot] = position + FIRST_NUMBER
