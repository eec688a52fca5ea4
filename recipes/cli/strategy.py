"""Settings that our recipes need of Lightning's distributed strategies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning as L
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn

from callbacks.lightning_private import set_data_parallel_size


def build_strategy(name: str | Strategy, module: L.LightningModule) -> str | Strategy:
    """Turn a strategy's name into one that works with unequal evaluation shares.

    Args:
        name: ``--trainer.strategy``: ``ddp``, ``fsdp2`` (FSDP2 through ModelParallelStrategy),
            another name of Lightning's, or a strategy, which is left as it is.
        module: The module; ``fsdp2`` shards its ``net``.

    Returns:
        What the trainer takes.

    Raises:
        ValueError: If ``fsdp2`` is asked for and the module builds its network by itself, or if
            another ``ModelParallelStrategy`` is given.
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
        return FSDP2Strategy()
    if isinstance(name, ModelParallelStrategy):
        # Its defaults make one data-parallel rank of a whole node: gradients would stay apart.
        raise ValueError(
            "--trainer.strategy ModelParallelStrategy splits matrices over devices, which no "
            "network here does; use --trainer.strategy fsdp2"
        )
    return name


class FSDP2Strategy(ModelParallelStrategy):
    """Every rank trains on its own samples and keeps a share of every tensor."""

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Make the mesh; how many ranks there are is known only now."""
        set_data_parallel_size(self, self.num_nodes * self.num_processes)
        super().setup_environment()


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
        net: The network. Its own ``blocks_to_shard()`` decides, if it has one: a part whose
            weights are also used outside of its ``forward`` must not be among them.

    Yields:
        Children with parameters; lists of modules are opened, as they have no forward of their own.
    """
    own: Any = getattr(net, "blocks_to_shard", None)
    if own is not None:
        yield from own()
        return
    for child in net.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from blocks(child)
        elif any(parameter.requires_grad for parameter in child.parameters()):
            yield child
