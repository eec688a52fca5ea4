"""LAMB, the layer-wise adaptive optimizer of the RNN-T and BERT references.

Each operation covers all tensors of a group at once: a step of two groups is 42 operators, however
many tensors there are, and never waits for the host. On a CPU torch's fused Adam does most of them,
in slices that stay in the cache. timm's LAMB is the tests' second opinion, for speed too.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from modules.common.cache_sized import cache_sized, plain_on_cpu
from modules.common.norms import global_norm, trust_ratios


class Lamb(Optimizer):
    """Adam whose update of each tensor is rescaled to the length of the tensor itself.

    At step t, for a gradient g that is clipped by the norm over all tensors of all groups::

        m = beta1 m + (1 - beta1) g          v = beta2 v + (1 - beta2) g^2
        u = (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay w
        w = w - lr r u,   r = |w| / |u| if both are positive, else 1

    The ratio r has no bounds. It is 1 for every tensor of a group without weight decay, so give
    tensors that must not be rescaled (biases and LayerNorm in BERT) a group with
    ``weight_decay=0``.

    Args:
        params: Tensors, or dicts of a group's tensors and its own ``lr``, ``betas``, ``eps`` or
            ``weight_decay``.
        lr: Learning rate, >= 0.
        betas: Decay of the first and second moment, each in [0, 1).
        eps: Added outside of the root, >= 0.
        weight_decay: Decoupled weight decay, >= 0.
        max_grad_norm: Gradients are scaled down to this global norm; None or infinity does not
            clip.
        bias_correction: Divide the moments by ``1 - beta^t``.
        grad_averaging: Weight the gradient by ``1 - beta1`` in the first moment; else by 1.

    Raises:
        ValueError: If a number is out of range.

    Source:
        NVIDIA/DeepLearningExamples, PyTorch/LanguageModeling/BERT/lamb_amp_opt (the kernel of apex
        FusedLAMB, which training_rules.adoc v1.0 names). Gradients stay unclipped in ``.grad``, as
        there.
    """

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        max_grad_norm: float | None = 1.0,
        bias_correction: bool = True,
        grad_averaging: bool = True,
    ) -> None:
        for name, value, rule, good in (
            ("lr", lr, "at least 0", lr >= 0),
            ("betas", betas, "two numbers in [0, 1)", all(0 <= beta < 1 for beta in betas)),
            ("eps", eps, "at least 0", eps >= 0),
            ("weight_decay", weight_decay, "at least 0", weight_decay >= 0),
            ("max_grad_norm", max_grad_norm, "above 0", max_grad_norm is None or max_grad_norm > 0),
        ):
            if not good:
                raise ValueError(f"{name} must be {rule}, got {value}")
        self.max_grad_norm = max_grad_norm
        self.bias_correction, self.grad_averaging = bias_correction, grad_averaging
        # The step count is the group's, as in apex; it travels in the state dict's groups.
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "step": 0}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update every tensor that has a gradient; return the closure's loss, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        shrink = self._shrink()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                group["step"] += 1
                self._update(group, weights, shrink)
        return loss

    def _shrink(self) -> Tensor | None:
        """Return the divisor, at least 1, that scales gradients down to the greatest norm."""
        if self.max_grad_norm is None:
            return None
        groups = self.param_groups
        grads = [w.grad for group in groups for w in group["params"] if w.grad is not None]
        if not grads:
            return None
        return (global_norm(grads) / self.max_grad_norm).clamp(min=1.0)

    def _update(self, group: dict[str, Any], weights: list[Tensor], shrink: Tensor | None) -> None:
        lists: Any = [weights, [weight.grad for weight in weights], *self._moments(weights)]
        fused = self.bias_correction and self.grad_averaging and plain_on_cpu(*lists)
        directions = _fused_directions if fused else self._directions
        updates: list[Tensor] = directions(group, shrink, *lists)
        if group["weight_decay"]:
            torch._foreach_mul_(updates, list(trust_ratios(weights, updates).unbind()))
        torch._foreach_add_(weights, updates, alpha=-group["lr"])

    def _directions(
        self,
        group: dict[str, Any],
        shrink: Tensor | None,
        weights: list[Tensor],
        grads: list[Tensor],
        first: list[Tensor],
        second: list[Tensor],
    ) -> list[Tensor]:
        """Update the moments in place and return u, not yet rescaled, of every tensor."""
        beta1, beta2 = group["betas"]
        if shrink is not None:
            grads = torch._foreach_div(grads, shrink)  # type: ignore[assignment]
        torch._foreach_mul_(first, beta1)
        torch._foreach_add_(first, grads, alpha=1 - beta1 if self.grad_averaging else 1.0)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, grads, grads, 1 - beta2)
        correct1 = 1 - beta1 ** group["step"] if self.bias_correction else 1.0
        correct2 = 1 - beta2 ** group["step"] if self.bias_correction else 1.0
        divisor = torch._foreach_div(second, correct2)
        torch._foreach_sqrt_(divisor)
        torch._foreach_add_(divisor, group["eps"])
        torch._foreach_mul_(divisor, correct1)
        updates: Any = torch._foreach_div(first, divisor)
        if group["weight_decay"]:
            torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
        return updates

    def _moments(self, weights: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return first and second moments, which are zero before a tensor's first step."""
        for weight in weights:
            state = self.state[weight]
            if not state:
                state["exp_avg"] = torch.zeros_like(weight)
                state["exp_avg_sq"] = torch.zeros_like(weight)
        states = [self.state[weight] for weight in weights]
        return [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]


def _fused_directions(
    group: dict[str, Any],
    shrink: Tensor | None,
    weights: list[Tensor],
    grads: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
) -> list[Tensor]:
    """Do the same in one kernel per slice: Adam's step of rate -1 from zero is u without decay."""
    beta1, beta2 = group["betas"]
    step = torch.tensor(float(group["step"]))
    divisor = None if shrink is None or float(shrink) == 1.0 else shrink
    updates = [torch.zeros_like(weight) for weight in weights]
    for to, own, grad, m, v in cache_sized(updates, weights, grads, first, second):
        if divisor is not None:
            grad = list(torch._foreach_div(grad, divisor))
        torch._fused_adam_(
            to, grad, m, v, [], [step] * len(to), lr=-1.0, beta1=beta1, beta2=beta2,
            weight_decay=0.0, eps=group["eps"], amsgrad=False, maximize=False,
        )  # fmt: skip
        if group["weight_decay"]:
            torch._foreach_add_(to, own, alpha=group["weight_decay"])
    return updates
