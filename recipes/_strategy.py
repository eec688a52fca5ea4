"""Settings that our recipes need of Lightning's distributed strategies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning as L
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn


def build_strategy(name: str | Strategy, module: L.LightningModule) -> str | Strategy:
    """Turn a strategy's name into one that works with unequal evaluation shares.

    Args:
        name: ``--trainer.strategy``: ``ddp``, ``fsdp2`` (FSDP2 through ModelParallelStrategy),
            another name of Lightning's, or a strategy, which is left as it is.
        module: The module; ``fsdp2`` shards its ``net``.

    Returns:
        What the trainer takes.

    Raises:
        ValueError: If ``fsdp2`` is asked for and the module builds its network by itself.
    """
    if name == "ddp":
        # Broadcasting buffers in evaluation would hang ranks with unequal numbers of samples.
        return DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
    if name == "fsdp2":
        if is_overridden("configure_model", module):
            raise ValueError(
                f"--trainer.strategy fsdp2: {type(module).__name__} shards its network by itself; "
                "use --trainer.strategy ddp"
            )
        module.configure_model = lambda: shard(module)  # type: ignore[method-assign]
        return ModelParallelStrategy(save_distributed_checkpoint=False)
    return name


def shard(module: Any) -> None:
    """Shard the parameters of ``module.net`` over all ranks, block by block.

    Args:
        module: A LightningModule whose device mesh is set up.
    """
    from torch.distributed.fsdp import fully_shard

    mesh = module.device_mesh["data_parallel"]
    for block in blocks(module.net):
        fully_shard(block, mesh=mesh)
    fully_shard(module.net, mesh=mesh)


def blocks(net: nn.Module) -> Iterator[nn.Module]:
    """The parts of a network that are worth sharding one by one.

    Args:
        net: The network.

    Yields:
        Children with parameters; lists of modules are opened, as they have no forward of their own.
    """
    for child in net.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from blocks(child)
        elif any(parameter.requires_grad for parameter in child.parameters()):
            yield child
