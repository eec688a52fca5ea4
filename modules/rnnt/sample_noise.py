"""Random numbers that depend on a sample's seed and on nothing else, for a whole batch at once.

A counter is hashed with each sample's seed, so the numbers are the same whatever batch, rank or
resumed run the sample is in, and they are made on the batch's own device.

Letters: B batch, N numbers per sample.
"""

import math

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9


def uniform_numbers(seed_B: Tensor, count: int, *, stream: int) -> Tensor:
    """Uniform numbers of each sample.

    Args:
        seed_B: int64, one seed per sample, in ``[0, 2**63)``.
        count: Numbers per sample.
        stream: Which purpose the numbers serve; streams of one sample are independent.

    Returns:
        numbers_BN: float64 in ``[0, 1)``, multiples of 2**-32.
    """
    return _words(seed_B, count, stream).double() / 2.0**32


def normal_numbers(seed_B: Tensor, count: int, *, stream: int) -> Tensor:
    """Standard normal numbers of each sample, two from each pair of uniform ones (Box-Muller).

    Args:
        seed_B: int64, one seed per sample, in ``[0, 2**63)``.
        count: Numbers per sample.
        stream: Which purpose the numbers serve; streams of one sample are independent.

    Returns:
        numbers_BN: float32.
    """
    pairs = -(-count // 2)
    # The upper bits only: a float32 holds 24, and 0 must not reach the logarithm.
    radius = ((_words(seed_B, pairs, 2 * stream + 1) >> 8) + 1).float().mul_(2.0**-24)
    radius = radius.log_().mul_(-2).sqrt_()
    angle = (_words(seed_B, pairs, 2 * stream + 2) >> 8).float().mul_(2 * math.pi * 2.0**-24)
    return torch.stack((radius * angle.cos(), radius * angle.sin()), -1).flatten(1)[:, :count]


def _words(seed_B: Tensor, count: int, stream: int) -> Tensor:
    """32 random bits per number in an int64."""
    low, high = seed_B & _MASK, (seed_B >> 32) & _MASK
    key = _mix(_mix(low ^ (stream * _GOLDEN & _MASK)) ^ high)
    counter_N = torch.arange(count, device=seed_B.device)
    # Every counter is mixed once before the key meets it: neighbours differ in all bits by then.
    return _mix(_mix(counter_N * _GOLDEN & _MASK)[None] ^ key[:, None])


def _mix(word: Tensor) -> Tensor:
    """The finaliser of MurmurHash3: every input bit changes every output bit half of the time."""
    word = word ^ (word >> 16)
    word = (word * 0x85EBCA6B) & _MASK
    word = word ^ (word >> 13)
    word = (word * 0xC2B2AE35) & _MASK
    return word ^ (word >> 16)
