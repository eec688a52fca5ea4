"""Plain SGD that touches only the rows of a table that have a gradient.

Letters: N gradient rows, R table rows, D width.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class SparseSGD(Optimizer):
    """``w -= lr * grad`` for dense and sparse gradients alike; repeated rows add up.

    Equal to ``torch.optim.SGD`` without momentum and weight decay. Tables in half precision are
    stepped in fp32 and rounded stochastically, as rounding to nearest would lose small steps.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate, at least 0.

    Raises:
        ValueError: If ``lr`` is negative.

    Source:
        torch.optim.SGD. Differs: no sort and no coalesced copy before a sparse step.
    """

    def __init__(self, params: Iterable[Any], lr: float) -> None:
        if lr < 0:
            raise ValueError(f"lr must be at least 0, got {lr}")
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step.

        Args:
            closure: Computes the loss and the gradients, if given.

        Returns:
            What ``closure`` returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                if weight.grad.is_sparse:
                    sparse_step(weight, weight.grad, group["lr"])
                else:
                    weight.add_(weight.grad, alpha=-group["lr"])
        return loss


def sparse_step(weight_RD: Tensor, grad_RD: Tensor, learning_rate: float) -> None:
    """Step the rows of a table that a sparse gradient names.

    Args:
        weight_RD: The table, stepped in place.
        grad_RD: Sparse COO tensor with one sparse dimension; rows may repeat.
        learning_rate: Factor of the gradient.
    """
    rows_N, values_ND = grad_RD._indices()[0], grad_RD._values()
    if weight_RD.dtype in (torch.bfloat16, torch.float16):
        _rounded_step(weight_RD, rows_N, values_ND, learning_rate)
    elif weight_RD.is_cuda:
        weight_RD.index_add_(0, rows_N, values_ND.to(weight_RD.dtype), alpha=-learning_rate)
    else:
        # torch sorts an expanded index and then adds whole rows: three times as fast on CPUs.
        index_ND = rows_N[:, None].expand_as(values_ND)
        weight_RD.scatter_add_(0, index_ND, values_ND * -learning_rate)


def _rounded_step(
    weight_RD: Tensor, rows_N: Tensor, values_ND: Tensor, learning_rate: float
) -> None:
    """The same for a half-precision table: rows are summed and stepped in fp32."""
    touched_M, place_N = rows_N.unique(return_inverse=True)
    step_MD = values_ND.new_zeros((len(touched_M), values_ND.shape[1]), dtype=torch.float32)
    step_MD.index_add_(0, place_N, values_ND.float())
    stepped = weight_RD[touched_M].float() - learning_rate * step_MD
    weight_RD[touched_M] = stochastic_round(stepped, weight_RD.dtype)


def stochastic_round(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Round to a shorter type, up or down at random so that the mean is kept.

    Args:
        values: float32.
        dtype: ``torch.bfloat16`` or ``torch.float16`` (its subnormals are rounded to nearest).

    Returns:
        Values in ``dtype``, same shape.
    """
    dropped_bits = 16 if dtype == torch.bfloat16 else 13
    bits = values.contiguous().view(torch.int32)
    noise = torch.randint_like(bits, 1 << dropped_bits)
    kept = (bits + noise) & -(1 << dropped_bits)
    return kept.view(torch.float32).to(dtype)
