"""Mixture of experts: a router picks some experts per token, grouped products run them.

Shapes: T tokens, C hidden size, E experts, K experts per token, I inner width. Nothing here waits
for the host, and every sum has a fixed order.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Router(nn.Module):
    """Scores the experts and picks the best ones; no bias, no balancing loss, nothing dropped.

    Args:
        hidden_size: C.
        num_experts: E.
        experts_per_token: K.
    """

    def __init__(self, hidden_size: int, num_experts: int, experts_per_token: int) -> None:
        super().__init__()
        self.experts_per_token = experts_per_token
        self.weight = nn.Parameter(torch.empty(num_experts, hidden_size))

    def forward(self, hidden_TC: Tensor) -> tuple[Tensor, Tensor]:
        """Pick experts.

        Args:
            hidden_TC: Normalised tokens.

        Returns:
            share_TK: float32, positive, sums to 1 over the chosen experts.
            expert_TK: int64, best first; of equal scores the lower number, on every device.
        """
        with torch.autocast(hidden_TC.device.type, enabled=False):
            logits_TE = F.linear(hidden_TC.float(), self.weight.float())
        logits_TE, expert_TE = logits_TE.sort(dim=-1, descending=True, stable=True)
        chosen = self.experts_per_token
        return logits_TE[:, :chosen].softmax(-1), expert_TE[:, :chosen]


class Experts(nn.Module):
    """Gated feed-forward networks, of which each token passes some.

    Args:
        hidden_size: C.
        intermediate_size: I.
        num_experts: E.
    """

    def __init__(self, hidden_size: int, intermediate_size: int, num_experts: int) -> None:
        super().__init__()
        # [gate; up], as the reference and transformers' Qwen3Moe store them.
        self.gate_up_proj = nn.Parameter(
            torch.empty(num_experts, 2 * intermediate_size, hidden_size)
        )
        self.down_proj = nn.Parameter(torch.empty(num_experts, hidden_size, intermediate_size))

    def forward(self, hidden_TC: Tensor, share_TK: Tensor, expert_TK: Tensor) -> Tensor:
        """Sum the chosen experts' outputs, weighted by their shares."""
        num_chosen, experts = expert_TK.shape[1], expert_TK.flatten()
        sorted_experts, order = experts.sort(stable=True)
        numbers_E = torch.arange(len(self.down_proj), device=experts.device)
        ends_E = torch.searchsorted(sorted_experts, numbers_E, right=True, out_int32=True)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        dtype = _product_dtype(hidden_TC)
        inputs = _Dispatch.apply(hidden_TC.to(dtype), order, place, num_chosen)
        gate, up = _grouped(inputs, self.gate_up_proj, ends_E).chunk(2, dim=-1)
        outputs = _grouped(F.silu(gate) * up, self.down_proj, ends_E)
        outputs_TKC = _Permute.apply(outputs, place, order).unflatten(0, (-1, num_chosen))
        return (share_TK.unsqueeze(-1) * outputs_TKC).sum(1).to(hidden_TC.dtype)


class MixtureOfExperts(nn.Module):
    """Router and experts.

    Args:
        hidden_size: C.
        intermediate_size: I.
        num_experts: E.
        experts_per_token: K.
    """

    def __init__(
        self, hidden_size: int, intermediate_size: int, num_experts: int, experts_per_token: int
    ) -> None:
        super().__init__()
        self.gate = Router(hidden_size, num_experts, experts_per_token)
        self.experts = Experts(hidden_size, intermediate_size, num_experts)

    def forward(self, hidden_BSC: Tensor) -> Tensor:
        hidden_TC = hidden_BSC.flatten(0, -2)
        return self.experts(hidden_TC, *self.gate(hidden_TC)).view_as(hidden_BSC)


def _grouped(rows_TC: Tensor, weight_EIC: Tensor, ends_E: Tensor) -> Tensor:
    """Multiply each expert's rows, sorted by expert, by that expert's matrix."""
    weight_ECI = weight_EIC.to(rows_TC.dtype).transpose(-2, -1)
    return F.grouped_mm(rows_TC, weight_ECI, offs=ends_E)


def _product_dtype(tensor: Tensor) -> torch.dtype:
    """Return the type of matrix products; autocast leaves grouped ones alone."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype


class _Dispatch(torch.autograd.Function):
    """Copy each token's row to its experts; the gradient is summed in the order of its choices.

    Plain indexing would add up the gradients in an order of its own, one element at a time on CPUs.
    """

    @staticmethod
    def forward(ctx: Any, rows_TC: Tensor, order: Tensor, place: Tensor, copies: int) -> Tensor:
        ctx.save_for_backward(place)
        ctx.copies = copies
        return rows_TC[order // copies]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (place,) = ctx.saved_tensors
        return gradients[0][place].unflatten(0, (-1, ctx.copies)).sum(1), None, None, None


class _Permute(torch.autograd.Function):
    """Reorder rows; the gradient is reordered back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return rows[order]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (back,) = ctx.saved_tensors
        return gradients[0][back], None, None
