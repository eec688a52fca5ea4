"""Lightning's distributed strategies with the settings that the recipes need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning as L
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn

from callbacks.lightning_private import set_data_parallel_size


def build_strategy(name: str | Strategy, module: L.LightningModule) -> str | Strategy:
    """Build ``ddp`` or ``fsdp2`` for a module; leave Lightning's other strategies as they are."""
    if name == "ddp":
        # Broadcasting buffers in evaluation would deadlock ranks with unequal numbers of samples.
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
        # By default a whole node is one data-parallel rank: gradients would not be averaged.
        raise ValueError(
            "--trainer.strategy ModelParallelStrategy splits matrices over devices, which no "
            "network here does; use --trainer.strategy fsdp2"
        )
    return name


class FSDP2Strategy(ModelParallelStrategy):
    """FSDP2 over all ranks: each trains on its own samples and keeps a share of every tensor."""

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Set up the mesh; the number of ranks is known only now."""
        set_data_parallel_size(self, self.num_nodes * self.num_processes)
        super().setup_environment()


def shard(module: Any) -> None:
    """Shard the parameters of ``module.net`` over all ranks, block by block."""
    from torch.distributed.fsdp import fully_shard

    mesh = module.device_mesh["data_parallel"]
    for block in blocks(module.net):
        fully_shard(block, mesh=mesh)
    fully_shard(module.net, mesh=mesh)


def blocks(net: nn.Module) -> Iterator[nn.Module]:
    """Yield the parts of a network to shard one by one."""
    # A part whose weights are used outside its own ``forward`` must not be among them, so a network
    # may choose.
    own: Any = getattr(net, "blocks_to_shard", None)
    if own is not None:
        yield from own()
        return
    for child in net.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):  # they have no forward
            yield from blocks(child)
        elif any(parameter.requires_grad for parameter in child.parameters()):
            yield child
