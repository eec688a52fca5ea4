"""Plain SGD that touches only the rows of a table that have a gradient.

torch.optim.SGD would sort the rows first or add them one by one, at the cost of an operator each;
here a compiled loop adds them on CPUs. Letters: N gradient rows, R table rows, D width.
"""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

HALF = (torch.bfloat16, torch.float16)


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
        torch.optim.SGD. Differs: half-precision tables; a loop over rows for sparse steps on CPUs.
    """

    def __init__(self, params: Iterable[Any], lr: float) -> None:
        if lr < 0:
            raise ValueError(f"lr must be at least 0, got {lr}")
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; return the closure's loss, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                if weight.grad.is_sparse and weight.dtype in HALF:
                    _rounded_step(weight, weight.grad, group["lr"])
                elif weight.grad.is_sparse and not weight.is_cuda:
                    _add_rows(weight, weight.grad, -group["lr"])
                else:
                    weight.add_(weight.grad, alpha=-group["lr"])
        return loss


def _add_rows(weight_RD: Tensor, grad_RD: Tensor, factor: float) -> None:
    """Add a multiple of each gradient row to its table row, so that repeated rows add up."""
    rows_N, values_ND = grad_RD._indices()[0], grad_RD._values().contiguous()
    sums = weight_RD.detach().numpy()
    _row_loop()(sums, rows_N.numpy(), values_ND.numpy(), sums.dtype.type(factor))


@cache
def _row_loop() -> Any:
    """Compile the loop; numba is imported here, as that takes a second."""
    import numba

    # Sums may be taken in any order, which vector units need; NaN and infinity stay what they are.
    @numba.njit(nogil=True, fastmath={"reassoc", "contract"})
    def add(sums_RD: np.ndarray, rows_N: np.ndarray, values_ND: np.ndarray, factor: Any) -> None:
        for position in range(len(rows_N)):
            row = rows_N[position]
            for element in range(values_ND.shape[1]):
                sums_RD[row, element] += factor * values_ND[position, element]

    return add


def _rounded_step(weight_RD: Tensor, grad_RD: Tensor, learning_rate: float) -> None:
    """Step the rows of a half-precision table that a sparse gradient names, summed in fp32."""
    rows_N, values_ND = grad_RD._indices()[0], grad_RD._values()
    touched_M, index_N = rows_N.unique(return_inverse=True)
    step_MD = values_ND.new_zeros((len(touched_M), values_ND.shape[1]), dtype=torch.float32)
    step_MD.index_add_(0, index_N, values_ND.float())
    stepped = weight_RD[touched_M].float() - learning_rate * step_MD
    weight_RD[touched_M] = stochastic_round(stepped, weight_RD.dtype)


def stochastic_round(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Round float32 at random to bfloat16 or float16 (subnormals to nearest), keeping the mean."""
    dropped_bits = 16 if dtype == torch.bfloat16 else 13
    bits = values.contiguous().view(torch.int32)
    noise = torch.randint_like(bits, 1 << dropped_bits)
    kept = (bits + noise) & -(1 << dropped_bits)
    return kept.view(torch.float32).to(dtype)
