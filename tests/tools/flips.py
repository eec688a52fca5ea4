"""Copies of a file's content with one bit flipped, spread over the whole of it."""

from collections.abc import Iterator


def flips(content: bytes, count: int) -> Iterator[bytes]:
    """Yield at most ``count`` copies; neighbours have another bit of another byte flipped."""
    for number in range(min(count, len(content))):
        damaged = bytearray(content)
        damaged[number * len(content) // min(count, len(content))] ^= 1 << number * 5 % 8
        yield bytes(damaged)
