"""Rotary position embedding (RoPE), with the scaling of Llama 3.1.

Shapes: B sequences, H heads, S tokens, D numbers per head.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Scaling(NamedTuple):
    """Llama 3.1's change of the frequencies; it applies at every sequence length."""

    factor: float = 8.0
    low: float = 1.0
    high: float = 4.0
    context: float = 8192.0


def inverse_frequencies(size: int, base: float, scaling: Scaling | None = None) -> Tensor:
    """Compute the angle per position of each pair (j, j + D/2) of a head's numbers.

    Waves longer than ``context / low`` become ``factor`` times as long, those shorter than
    ``context / high`` stay, and those between are blended.

    Args:
        size: D, even.
        base: Base of the geometric series, such as 500,000.
        scaling: Llama 3.1's; None leaves the series as it is.

    Returns:
        Radians per position (D / 2,), float32.

    Source:
        NVIDIA/NeMo @ v2.1.0, collections/llm/gpt/model/llama.py, apply_rope_scaling.
    """
    plain = 1.0 / base ** (torch.arange(0, size, 2, dtype=torch.int64).float() / size)
    if scaling is None:
        return plain
    wave = 2 * math.pi / plain
    share = (scaling.context / wave - scaling.low) / (scaling.high - scaling.low)
    blended = (1 - share) * plain / scaling.factor + share * plain
    longest, shortest = scaling.context / scaling.low, scaling.context / scaling.high
    scaled = torch.where(wave > longest, plain / scaling.factor, blended)
    return torch.where(wave < shortest, plain, scaled)


class Rotary(nn.Module):
    """Rotates queries and keys by their positions, counted from 0.

    Args:
        size: D, even.
        base: Base of the geometric series.
        scaling: Llama 3.1's, or None.
    """

    frequencies: Tensor

    def __init__(self, size: int, base: float, scaling: Scaling | None = None) -> None:
        super().__init__()
        self._arguments = size, base, scaling
        frequencies = inverse_frequencies(*self._arguments)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def reset_frequencies(self) -> None:
        """Compute the frequencies on the CPU, as always, after they lost their memory."""
        with torch.device("cpu"):
            self.frequencies = inverse_frequencies(*self._arguments).to(self.frequencies.device)

    def forward(self, *heads_BHSD: Tensor) -> list[Tensor]:
        """Rotate tensors of the same length and type, in float32."""
        first = heads_BHSD[0]
        positions_S = torch.arange(first.shape[2], device=first.device, dtype=torch.float32)
        angles_SD = torch.outer(positions_S, self.frequencies)
        cos, sin = angles_SD.cos(), angles_SD.sin()
        return [_rotate(heads.float(), cos, sin).to(first.dtype) for heads in heads_BHSD]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move with the module but stay in float32: angles in half precision are wrong."""
        kept = self.frequencies
        super()._apply(fn, recurse)
        if self.frequencies.dtype != kept.dtype:
            self.frequencies = kept.to(self.frequencies.device)
        return self


def _rotate(heads_BHSD: Tensor, cos_SD: Tensor, sin_SD: Tensor) -> Tensor:
    """Rotate each pair of the first and the second half; cos and sin have D/2 columns."""
    first, second = heads_BHSD.chunk(2, dim=-1)
    return torch.cat((first * cos_SD - second * sin_SD, second * cos_SD + first * sin_SD), dim=-1)
