"""Variants that are wrong on purpose, and a right one: context managers that take the module."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def larger_outputs(module: Any) -> Iterator[None]:
    """Return outputs that are two per cent too large, as a kernel with a wrong scale would."""
    hook = module.net.register_forward_hook(lambda net, inputs, output: 1.02 * output)
    yield
    hook.remove()


@contextmanager
def lost_gradient(module: Any) -> Iterator[None]:
    """Leave the loss as it is and lose the gradient of one weight."""
    weight = next(w for w in module.net.parameters() if w.dim() > 1)
    hook = weight.register_hook(lambda gradient: 0 * gradient)
    yield
    hook.remove()


@contextmanager
def first_batch_again(module: Any) -> Iterator[None]:
    """Compute every step on the first one's images, as a graph that reads an old buffer does."""
    kept: list[Any] = []

    def keep(net: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        kept.append(inputs)
        return kept[0]

    hook = module.net.register_forward_pre_hook(keep)
    yield
    hook.remove()


@contextmanager
def no_update(module: Any) -> Iterator[None]:
    """Compute every step with the first one's weights, as a graph that has copied them does."""
    first = [weight.detach().clone() for weight in module.net.parameters()]

    def put_back(net: nn.Module, inputs: tuple[Any, ...]) -> None:
        for weight, old in zip(net.parameters(), first, strict=True):
            weight.data.copy_(old)

    hook = module.net.register_forward_pre_hook(put_back)
    yield
    hook.remove()


@contextmanager
def right(module: Any) -> Iterator[None]:
    """Compute the same sums in another order."""
    yield
