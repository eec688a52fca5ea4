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
_24_BITS = 0xFFFFFF


def uniform_numbers(seed_B: Tensor, count: int, *, stream: int) -> Tensor:
    """Return numbers_BN, float64 in ``[0, 1)``, multiples of 2**-32."""
    return (_words(seed_B, count, stream).long() & _MASK).double() / 2.0**32


def normal_numbers(seed_B: Tensor, count: int, *, stream: int) -> Tensor:
    """Return numbers_BN, float32 standard normal, two per pair of uniform ones (Box-Muller)."""
    pairs = -(-count // 2)
    # The upper bits only: a float32 holds 24, and 0 must not reach the logarithm.
    radius = _words(seed_B, pairs, 2 * stream + 1).bitwise_right_shift_(8)
    radius = radius.bitwise_and_(_24_BITS).add_(1).float().mul_(2.0**-24)
    radius = radius.log_().mul_(-2).sqrt_()
    angle = _words(seed_B, pairs, 2 * stream + 2).bitwise_right_shift_(8)
    angle = angle.bitwise_and_(_24_BITS).float().mul_(2 * math.pi * 2.0**-24)
    numbers_BP2 = radius.new_empty(*radius.shape, 2)
    torch.mul(radius, angle.cos(), out=numbers_BP2[..., 0])
    torch.mul(radius, angle.sin_(), out=numbers_BP2[..., 1])
    return numbers_BP2.flatten(1)[:, :count]


def _words(seed_B: Tensor, count: int, stream: int) -> Tensor:
    """Return 32 random bits per number, as an int32."""
    low, high = _as_int32(seed_B), _as_int32(seed_B >> 32)
    key_B = _mix(_mix(low ^ _signed(stream * _GOLDEN)) ^ high)
    counter_N = torch.arange(count, device=seed_B.device, dtype=torch.int32)
    # Counters are mixed once before the key enters, so that neighbours already differ in all bits.
    return _mix(_mix(counter_N * _signed(_GOLDEN))[None] ^ key_B[:, None])


def _mix(word: Tensor) -> Tensor:
    """Apply MurmurHash3's finaliser in place: an input bit flips each output bit half of the time.

    A product's lower 32 bits are the same whether a word has a sign or not; only a shift to the
    right would repeat the sign.
    """
    word ^= (word >> 16).bitwise_and_(0xFFFF)
    word *= _signed(0x85EBCA6B)
    word ^= (word >> 13).bitwise_and_(0x7FFFF)
    word *= _signed(0xC2B2AE35)
    word ^= (word >> 16).bitwise_and_(0xFFFF)
    return word


def _signed(word: int) -> int:
    """Return the int32 of the same lower 32 bits."""
    return (word + 2**31 & _MASK) - 2**31


def _as_int32(values: Tensor) -> Tensor:
    """Keep the lower 32 bits of int64 values."""
    return values.view(torch.int32)[..., ::2]
