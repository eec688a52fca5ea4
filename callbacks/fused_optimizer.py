"""torch's own optimizers as one kernel per group, which is theirs to offer and ours to ask for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.optim import SGD, Adam, AdamW, Optimizer


def fuse(optimizer: Optimizer) -> None:
    """Let torch compute an optimizer's step with its fused kernels.

    Args:
        optimizer: Takes the same steps up to rounding from now on.

    Raises:
        ValueError: If torch has no fused kernel for it.
    """
    if type(optimizer) not in (SGD, Adam, AdamW):
        raise ValueError(
            f"--warmup.fused_optimizer: {type(optimizer).__name__} has no fused kernels, only "
            "torch's SGD, Adam and AdamW do; leave the flag out"
        )
    for group in optimizer.param_groups:
        group["fused"], group["foreach"] = True, False


@contextmanager
def fused(module: Any) -> Iterator[None]:
    """Give a module fused optimizers: ``speed --variants callbacks.fused_optimizer.fused``."""
    configure = module.configure_optimizers

    def configured() -> Any:
        result = configure()
        fuse(result["optimizer"] if isinstance(result, dict) else result)
        return result

    module.configure_optimizers = configured
    try:
        yield
    finally:
        del module.configure_optimizers
