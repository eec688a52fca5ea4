"""torch's own optimizers as one kernel per group, which is theirs to offer and ours to ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
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


def fused(module: Any) -> AbstractContextManager[None]:
    """Give a module fused optimizers: ``speed --variants callbacks.fused_optimizer.fused``."""
    return changed_optimizers(module, fuse)


@contextmanager
def changed_optimizers(module: Any, change: Callable[[Optimizer], object]) -> Iterator[None]:
    """Change within a block every optimizer that a module configures; blocks may nest."""
    configure = module.configure_optimizers
    own = vars(module).get("configure_optimizers")

    def configured() -> Any:
        result = configure()
        change(result["optimizer"] if isinstance(result, dict) else result)
        return result

    module.configure_optimizers = configured
    try:
        yield
    finally:
        del module.configure_optimizers
        if own is not None:
            module.configure_optimizers = own
