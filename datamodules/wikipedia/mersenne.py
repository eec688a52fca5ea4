"""Python's `random.Random`, draw for draw, in compiled code.

The reference's samples depend on the exact sequence of draws of CPython's Mersenne Twister. A
generator's state here is (625,) uint32: the 624 words of the twister and the position in them.
"""

import random
from typing import Any

import numpy as np
from numba import njit

_N, _M = 624, 397


def seeded(seed: int) -> np.ndarray:
    """Return the state that ``random.Random(seed)`` starts from."""
    return np.array(random.Random(seed).getstate()[1], dtype=np.uint32)


@njit(cache=True)
def _refill(state):  # type: ignore[no-untyped-def]
    """Generate the next 624 words."""
    for i in range(_N):
        upper = state[i] & np.uint32(0x80000000)
        lower = state[(i + 1) % _N] & np.uint32(0x7FFFFFFF)
        y = upper | lower
        value = state[(i + _M) % _N] ^ (y >> np.uint32(1))
        if y & np.uint32(1):
            value ^= np.uint32(0x9908B0DF)
        state[i] = value
    state[_N] = 0


@njit(cache=True)
def word(state: np.ndarray) -> Any:
    """Draw 32 bits."""
    if state[_N] >= _N:
        _refill(state)
    y = state[state[_N]]
    state[_N] += np.uint32(1)
    y ^= y >> np.uint32(11)
    y ^= (y << np.uint32(7)) & np.uint32(0x9D2C5680)
    y ^= (y << np.uint32(15)) & np.uint32(0xEFC60000)
    y ^= y >> np.uint32(18)
    return np.uint32(y)


@njit(cache=True)
def uniform(state: np.ndarray) -> Any:
    """Draw like ``random()``: a float64 in [0, 1) of 53 random bits."""
    # 27 bits and 26 bits, as in CPython's random_random.
    high = np.int64(word(state)) >> 5
    low = np.int64(word(state)) >> 6
    return (high * 67108864.0 + low) * (1.0 / 9007199254740992.0)


@njit(cache=True)
def below(state: np.ndarray, bound: int) -> Any:
    """Draw like ``randrange(bound)``: as many bits as the bound has, again while too large."""
    bits = 0
    while bound >> bits:
        bits += 1
    value = np.int64(word(state)) >> (32 - bits)
    while value >= bound:
        value = np.int64(word(state)) >> (32 - bits)
    return value


@njit(cache=True)
def shuffle(state: np.ndarray, values: np.ndarray, count: int) -> None:
    """Shuffle the first ``count`` values in place like ``shuffle``."""
    for i in range(count - 1, 0, -1):
        j = below(state, i + 1)
        values[i], values[j] = values[j], values[i]
