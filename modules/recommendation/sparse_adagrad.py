"""Adagrad that touches only the rows of a table that have a gradient.

Letters: M distinct gradient rows, R table rows, D width.
"""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

CHUNK_ROWS = 1 << 20  # rows stepped at once on an accelerator: 0.5 GB a tensor at width 128


class SparseAdagrad(Optimizer):
    """Element-wise Adagrad at a constant rate: ``s += g * g``, ``w -= lr * g / (sqrt(s) + eps)``.

    Gradients of a row are summed before they are squared. Equal to ``torch.optim.Adagrad`` for
    dense and sparse gradients; a sparse step reads and writes each touched element once on CPUs.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate, at least 0.
        eps: Added to the root, above 0.

    Raises:
        ValueError: If a number is out of range.

    Source:
        torch.optim.Adagrad; pytorch/FBGEMM, EXACT_ADAGRAD. Differs: no rate decay, no sums that
        do not start at 0, a loop over rows for sparse steps on CPUs.
    """

    def __init__(self, params: Iterable[Any], lr: float, eps: float = 1e-8) -> None:
        if lr < 0 or eps <= 0:
            raise ValueError(f"lr must be at least 0 and eps above 0, got {lr} and {eps}")
        super().__init__(params, {"lr": lr, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; return the closure's loss, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step(weight, group["lr"], group["eps"])
        return loss

    def _step(self, weight: Tensor, lr: float, eps: float) -> None:
        state = self.state[weight]
        if not state:
            state["sum"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
        sums, grad = state["sum"], weight.grad
        assert grad is not None
        if not grad.is_sparse:
            sums.addcmul_(grad, grad)
            weight.addcdiv_(grad, sums.sqrt().add_(eps), value=-lr)
            return
        rows_M, values_MD = _distinct_rows(grad)
        (_step_on_cpu if weight.device.type == "cpu" else _step_in_chunks)(
            weight, sums, rows_M, values_MD, lr, eps
        )


def _distinct_rows(grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return a sparse gradient's rows, each once, and their values."""
    rows_N = grad._indices()[0]
    # Autograd forgets that a gradient is coalesced; to look is cheaper than to sort it again.
    if not grad.is_coalesced() and not bool((rows_N[1:] > rows_N[:-1]).all()):
        grad = grad.coalesce()
    return grad._indices()[0], grad._values()


def _step_in_chunks(
    weight: Tensor, sums: Tensor, rows_M: Tensor, values_MD: Tensor, lr: float, eps: float
) -> None:
    """Step distinct rows on an accelerator, a chunk at a time."""
    for rows, grads in zip(rows_M.split(CHUNK_ROWS), values_MD.split(CHUNK_ROWS), strict=True):
        new = sums[rows].addcmul_(grads, grads)
        sums[rows] = new
        weight.index_add_(0, rows, grads / new.sqrt_().add_(eps), alpha=-lr)


def _step_on_cpu(
    weight: Tensor, sums: Tensor, rows_M: Tensor, values_MD: Tensor, lr: float, eps: float
) -> None:
    arrays = weight.detach().numpy(), sums.numpy(), rows_M.numpy(), values_MD.contiguous().numpy()
    kind = arrays[0].dtype.type
    _row_loop()(*arrays, kind(lr), kind(eps))


@cache
def _row_loop() -> Any:
    """Compile the loop; numba is imported here, as that takes a second."""
    import numba

    @numba.njit(nogil=True)
    def step(weight: Any, sums: Any, rows: Any, grads: Any, lr: Any, eps: Any) -> None:
        for position in range(len(rows)):
            row = rows[position]
            for element in range(grads.shape[1]):
                gradient = grads[position, element]
                total = sums[row, element] + gradient * gradient
                sums[row, element] = total
                weight[row, element] -= lr * gradient / (np.sqrt(total) + eps)

    return step
