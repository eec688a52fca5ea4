"""Random numbers that depend on nothing but a sample's seed, for a whole batch at once.

A counter is hashed with each sample's seed on the batch's device, so the numbers are the same in
any batch, on any rank and in a resumed run. Streams separate the purposes of a sample's numbers.

Letters: B batch, N numbers per sample. Seeds are int64 in ``[0, 2**63)``.
"""

import math

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9


def uniform_numbers(seed_B: Tensor, count: int, *, stream: int) -> Tensor:
    """Return numbers_BN, float64 in ``[0, 1)``, multiples of 2**-32."""
    return _words(seed_B, count, stream).double() / 2.0**32


def normal_numbers(seed_B: Tensor, count: int, *, stream: int) -> Tensor:
    """Return numbers_BN, float32 standard normal, two per pair of uniform ones (Box-Muller)."""
    pairs = -(-count // 2)
    # The upper bits only: a float32 holds 24, and 0 must not reach the logarithm.
    radius = ((_words(seed_B, pairs, 2 * stream + 1) >> 8) + 1).float().mul_(2.0**-24)
    radius = radius.log_().mul_(-2).sqrt_()
    angle = (_words(seed_B, pairs, 2 * stream + 2) >> 8).float().mul_(2 * math.pi * 2.0**-24)
    return torch.stack((radius * angle.cos(), radius * angle.sin()), -1).flatten(1)[:, :count]


def _words(seed_B: Tensor, count: int, stream: int) -> Tensor:
    """Return 32 random bits per number, in an int64."""
    low, high = seed_B & _MASK, (seed_B >> 32) & _MASK
    key = _mix(_mix(low ^ (stream * _GOLDEN & _MASK)) ^ high)
    counter_N = torch.arange(count, device=seed_B.device)
    # Counters are mixed once before the key enters, so that neighbours already differ in all bits.
    return _mix(_mix(counter_N * _GOLDEN & _MASK)[None] ^ key[:, None])


def _mix(word: Tensor) -> Tensor:
    """Apply MurmurHash3's finaliser: an input bit flips each output bit half of the time."""
    word = word ^ (word >> 16)
    word = (word * 0x85EBCA6B) & _MASK
    word = word ^ (word >> 13)
    word = (word * 0xC2B2AE35) & _MASK
    return word ^ (word >> 16)
