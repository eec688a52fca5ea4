"""Torch's errors about a network that cannot be trained, in words that name the network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from recipes.cli.net import Net

NOTHING_TO_TRAIN = ("does not require grad and does not have a grad_fn", "empty parameter list")
CHANGED_IN_PLACE = "modified by an inplace operation"


@contextmanager
def explained_net_errors(net: Net, model: Any) -> Iterator[None]:
    """Turn an error for lack of gradients into a ``ValueError`` of one line.

    Args:
        net: The network as the command line names it.
        model: The module that trains it.

    Yields:
        Nothing.

    Raises:
        ValueError: In place of torch's error; any other error passes.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        line = _line(str(error), net.name, model)
        if line is None:
            raise
        raise ValueError(f"{line}; --debug shows where") from error


def _line(message: str, name: str, model: Any) -> str | None:
    if CHANGED_IN_PLACE in message:
        return (
            f"{name} changes a tensor in place that its gradients are computed from, such as its "
            "input: let it change a copy"
        )
    if not any(part in message for part in NOTHING_TO_TRAIN):
        return None
    if not any(parameter.requires_grad for parameter in model.net.parameters()):
        return f"{name} has no parameter that is trained (requires_grad): nothing can be learned"
    return (
        f"the loss does not depend on the parameters of {name}: its output must be computed from "
        "them in floating-point numbers, without detach() or torch.no_grad()"
    )
