"""LSTMs in float16 with float32 weights, so that GPUs use their half-precision kernels.

torch's LSTMs on GPUs know float16, not bfloat16, whose range gradients need where no loss scale
protects them. Here every backward pass scales its own gradients: the largest that comes in becomes
about 1, so that 24 powers of 2 below it and 16 above are left, and what goes out is scaled back in
float32. The scale is computed on the device and nothing waits for it.

Letters: B batch, T frames, F features, H hidden units, L layers.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

State = tuple[Tensor, Tensor]


@torch.compiler.disable
def run_half(lstm: nn.LSTM, x_BTF: Tensor, state: State | None) -> tuple[Tensor, State]:
    """Return outputs_BTH and the state, computed in float16 and given in float32."""
    if state is None:
        zeros_LBH = x_BTF.new_zeros(lstm.num_layers, len(x_BTF), lstm.hidden_size)
        state = (zeros_LBH, zeros_LBH)
    weights = list(lstm.parameters())
    # In cuDNN's order, matrices first, and in one piece, as it would otherwise copy them again.
    ordered = sorted(weights, key=lambda weight: -weight.dim())
    flat = torch.cat([weight.flatten() for weight in ordered]).float()
    scale: list[Tensor] = []
    inputs = (x_BTF.float(), state[0].float(), state[1].float(), flat)
    x_BTF, hidden, cell, flat = _ScaleBack.apply(scale, *inputs)
    pieces = flat.split([weight.numel() for weight in ordered])
    half = {
        id(weight): piece.view_as(weight) for weight, piece in zip(ordered, pieces, strict=True)
    }
    outputs = torch.lstm(
        x_BTF,
        (hidden, cell),
        [half[id(weight)] for weight in weights],
        lstm.bias,
        lstm.num_layers,
        lstm.dropout,
        lstm.training,
        lstm.bidirectional,
        lstm.batch_first,
    )
    y_BTH, hidden, cell = _Scale.apply(scale, *outputs)
    return y_BTH, (hidden, cell)


class _ScaleBack(torch.autograd.Function):
    """Round inputs to float16; divide their gradients by the scale that ``_Scale`` chose."""

    @staticmethod
    def forward(ctx: Any, scale: list[Tensor], *inputs: Tensor) -> Any:
        ctx.scale = scale
        return tuple(values.half() for values in inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (scale,) = ctx.scale
        return None, *(gradient.float() / scale for gradient in grad_outputs)


class _Scale(torch.autograd.Function):
    """Return outputs in float32; scale their gradients by a power of 2 before they are rounded."""

    @staticmethod
    def forward(ctx: Any, scale: list[Tensor], *outputs: Tensor) -> Any:
        ctx.scale = scale
        return tuple(values.float() for values in outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        largest = torch.stack([gradient.abs().max() for gradient in grad_outputs]).max()
        # Bounds for gradients of 0, and so that infinity stays what it is.
        ctx.scale[:] = [largest.log2().floor().neg().clamp(-100.0, 100.0).exp2()]
        return None, *((gradient * ctx.scale[0]).half() for gradient in grad_outputs)
