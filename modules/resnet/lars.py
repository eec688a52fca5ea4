"""Momentum SGD with the learning rate inside the momentum buffer, and LARS on top of it.

Each operation covers all tensors of a group: a step of ResNet-50 is 25 operators, where a loop over
its tensors is 1,295, and reads no trust ratio back, for which a GPU would wait. timm's LARS, the
tests' second opinion at a constant rate, has the rate outside the momentum buffer, so that each new
rate rescales earlier steps; the reference does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from modules.common.norms import trust_ratios

# The reference logs lars_epsilon 0, but its code replaces a zero by the Keras default.
EPSILON = 1e-7


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling, as the closed reference of ResNet computes it.

    For a parameter w with gradient g (the mean over the global batch), in its group's settings::

        r = eta |w| / (|g| + weight_decay |w| + 1e-7)   if |w| > 0 and |g| > 0, else 1
        m = momentum m - lr r (g + weight_decay w)
        w = w + m

    |.| is the L2 norm of the whole tensor in float32. Groups with ``adapt`` False use r = 1. The
    rate is inside the momentum buffer, so a change of the rate does not rescale earlier steps. With
    ``adapt`` False everywhere this is Keras' momentum SGD; at a constant rate that equals
    ``torch.optim.SGD``.

    Args:
        params: Parameters or groups, each with its own settings.
        lr: Learning rate.
        momentum: In ``[0, 1)``.
        weight_decay: L2 penalty, added to the gradient.
        eta: Trust coefficient.
        adapt: Scale each tensor's rate by r.

    Raises:
        ValueError: If a setting is out of its range.

    Source:
        mlcommons/training, image_classification/tensorflow2/lars_optimizer.py (v1.0).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 0.001,
        adapt: bool = True,
    ) -> None:
        if lr < 0 or weight_decay < 0 or eta <= 0 or not 0 <= momentum < 1:
            raise ValueError(
                "LARS needs lr >= 0, weight_decay >= 0, eta > 0 and momentum in [0, 1); got "
                f"{lr}, {weight_decay}, {eta} and {momentum}"
            )
        settings = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, {**settings, "eta": eta, "adapt": adapt})

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], Tensor] | None = None
    ) -> Tensor | None:
        """Update all parameters that have a gradient; return the closure's loss, if given one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._update(group, weights)
        return loss

    def _update(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        momenta = [self._momentum(weight) for weight in weights]
        grads: list[Tensor] = [weight.grad for weight in weights]  # type: ignore[misc]
        decay, lr = group["weight_decay"], group["lr"]
        torch._foreach_mul_(momenta, group["momentum"])
        if group["adapt"]:
            change = torch._foreach_add(grads, weights, alpha=decay) if decay else grads
            rates = list((self._ratios(group, weights, grads) * -lr).unbind())
            torch._foreach_addcmul_(
                momenta, change, [r.to(m.dtype) for r, m in zip(rates, momenta, strict=True)]
            )
        else:
            # Decay is added to the momenta directly: a copy of all gradients would cost more.
            torch._foreach_add_(momenta, grads, alpha=-lr)
            if decay:
                torch._foreach_add_(momenta, weights, alpha=-lr * decay)
        torch._foreach_add_(weights, momenta)

    @staticmethod
    def _ratios(group: dict[str, Any], weights: list[Tensor], grads: list[Tensor]) -> Tensor:
        decay, eta = group["weight_decay"], group["eta"]

        def local_rate(weight_N: Tensor, grad_N: Tensor) -> Tensor:
            return eta * weight_N / (grad_N + decay * weight_N + EPSILON)

        return trust_ratios(weights, grads, local_rate, dtype=torch.float32)

    def _momentum(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        return state["momentum_buffer"]


def split_parameters(net: nn.Module) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Split trainable parameters by the treatment that LARS and weight decay give them.

    Args:
        net: Any network.

    Returns:
        Kernels (everything of two or more dimensions), biases, and parameters of normalisation
        layers.
    """
    norms = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
    of_norm = {
        id(parameter)
        for module in net.modules()
        if isinstance(module, norms)
        for parameter in module.parameters(recurse=False)
    }
    trained: list[Tensor] = [parameter for parameter in net.parameters() if parameter.requires_grad]
    normal = [p for p in trained if id(p) not in of_norm]
    kernels = [p for p in normal if p.ndim > 1]
    biases = [p for p in normal if p.ndim <= 1]
    return kernels, biases, [p for p in trained if id(p) in of_norm]
