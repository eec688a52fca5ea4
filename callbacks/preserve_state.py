"""Run a network before its training starts, and leave no trace of it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.parameter import is_lazy


@contextmanager
def preserve_state(net: nn.Module) -> Iterator[None]:
    """Restore buffers, each submodule's train/eval mode and the random state after a block.

    Args:
        net: The network or module, on the device where it runs. Weights and gradients are not
            restored: the block must not step an optimizer.
    """
    # Frozen parts may be in evaluation mode for good, so modes are kept one by one.
    modes = [(module, module.training) for module in net.modules()]
    before = {name: buffer.clone() for name, buffer in net.named_buffers() if not is_lazy(buffer)}
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for name, buffer in net.named_buffers():
                if name in before:
                    buffer.copy_(before[name])
