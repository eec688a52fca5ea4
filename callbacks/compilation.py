"""``torch.compile`` for what a training step calls: the network itself or some of its methods."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

IMPLEMENTATION = "_compiled_call_impl"  # what nn.Module.compile sets


def compile_net(module: Any, mode: str) -> None:
    """Compile in place what the training step calls; nothing is traced before it is called.

    Args:
        module: With a ``net``, or a network itself. Its ``compiled_calls`` names the methods of the
            net that training calls; without any, it calls the net.
        mode: Of ``torch.compile``.
    """
    for owner, name in _places(module):
        if name == IMPLEMENTATION:
            owner.compile(mode=mode)
        else:
            setattr(owner, name, torch.compile(getattr(owner, name), mode=mode))


def compiled_parts(module: Any) -> list[Any]:
    """Return what ``compile_net`` has set, for ``put_back``; None where nothing is compiled."""
    return [vars(owner).get(name) for owner, name in _places(module)]


def put_back(module: Any, parts: list[Any]) -> None:
    """Set compiled parts again, or the eager ones in place of None."""
    for (owner, name), part in zip(_places(module), parts, strict=True):
        if part is not None:
            setattr(owner, name, part)
        elif hasattr(type(owner), name):
            vars(owner).pop(name, None)


def _places(module: Any) -> Iterator[tuple[nn.Module, str]]:
    net = getattr(module, "net", module)
    calls = getattr(module, "compiled_calls", ())
    for name in calls:
        part = getattr(net, name)  # a method, or a module in the place of one
        yield (part, IMPLEMENTATION) if isinstance(part, nn.Module) else (net, name)
    if not calls:
        yield net, IMPLEMENTATION
