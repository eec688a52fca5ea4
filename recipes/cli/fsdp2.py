"""FSDP2: every rank keeps a share of each tensor, and trains and evaluates on its own samples."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from callbacks.lightning_private import set_data_parallel_size

# Share of a device's memory that whole weights or whole gradients may fill next to a rank's shares;
# activations need the rest.
ROOM = 0.7
STATES = 3 * 4  # bytes per parameter outside a step: fp32 weights and at most two moments
GRADIENT = 4  # reduced and accumulated in fp32
LARGE = 32e9  # bytes of weights and moments that rank 0 can still gather in its memory


class FSDP2Strategy(ModelParallelStrategy):
    """FSDP2 over all ranks: each trains on its own samples and keeps a share of every tensor.

    Attributes:
        shares_evaluation: Each rank evaluates samples of its own, with whole weights: a forward
            pass then waits for no other rank, however many of them each rank takes.
        reduces_once: Gradients that accumulate over batches stay whole until the step's last batch.
        shards_checkpoint: A checkpoint is a folder into which each rank writes its shares, in place
            of a file by rank 0.
    """

    def __init__(self, shards_checkpoint: bool | None = None) -> None:
        """Choose the kind of checkpoint; ``None``: a folder from 32 GB on."""
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)
        self.shares_evaluation = self.reduces_once = False
        self.shards_checkpoint = shards_checkpoint

    def setup_environment(self) -> None:
        """Set up the mesh; the number of ranks is known only now."""
        set_data_parallel_size(self, self.num_nodes * self.num_processes)
        super().setup_environment()

    def setup(self, trainer: L.Trainer) -> None:
        """Decide what there is memory for, the same on all ranks."""
        super().setup(trainer)
        count = sum(p.numel() for p in self._net.parameters())
        if self.shards_checkpoint is None:
            self.shards_checkpoint = count * STATES > LARGE
        if self.world_size == 1:
            return
        shares = count * STATES / self.world_size
        gathered = precision_policy(self._net, trainer.precision).param_dtype or torch.float32
        self.shares_evaluation = self._fits(shares + count * gathered.itemsize)
        self.reduces_once = self._fits(shares + count * GRADIENT)

    def _fits(self, num_bytes: float) -> bool:
        device, fits = self.root_device, True
        if device.type == "cuda":
            fits = num_bytes <= ROOM * torch.cuda.get_device_properties(device).total_memory
        return self.reduce_boolean_decision(fits)

    @property
    def _net(self) -> Any:
        module: Any = self.lightning_module
        return module.net

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the weights: whole ones on rank 0, or each rank's shares on its device."""
        if not self.shards_checkpoint:
            return super().lightning_module_state_dict()
        from torch.distributed.checkpoint.state_dict import get_model_state_dict  # 0.2 s

        assert self.model is not None
        return get_model_state_dict(self.model)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return an optimizer's state, whole or in shares as the weights."""
        if not self.shards_checkpoint:
            return super().optimizer_state(optimizer)
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

        assert self.model is not None
        return get_optimizer_state_dict(self.model, getattr(optimizer, "optimizer", optimizer))

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        """Write a file, or a folder with each rank's shares."""
        if not self.shards_checkpoint:
            super().save_checkpoint(checkpoint, filepath, storage_options)
            return
        from modules.common.sharded_file import save_sharded

        save_sharded(checkpoint, Path(self.broadcast(filepath)), main=self.is_global_zero)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: Any = None) -> dict[str, Any]:
        """Read a file or a folder of any number of ranks; damage is a ValueError of one line."""
        if not Path(checkpoint_path).is_dir():
            return super().load_checkpoint(checkpoint_path, weights_only)
        from modules.common.sharded_file import damage_told

        with damage_told(Path(checkpoint_path)):
            return super().load_checkpoint(checkpoint_path, weights_only)

    @contextmanager
    def block_backward_sync(self) -> Generator[None]:
        """Keep the gradients of a batch that is not a step's last one on their rank."""
        if self.reduces_once:
            self._net.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self._net.set_requires_gradient_sync(True)

    def on_validation_start(self) -> None:
        """Gather the weights once, in the type in which the network computes."""
        if self.shares_evaluation:
            for part in _sharded_parts(self._net):
                part.set_reshard_after_forward(False, recurse=False)
                part.unshard()

    def on_validation_end(self) -> None:
        """Keep shares of the weights again."""
        if self.shares_evaluation:
            for part in _sharded_parts(self._net):
                part.reshard()
                # The root's weights are needed again at once, by its backward pass.
                part.set_reshard_after_forward(part is not self._net, recurse=False)


def shard(module: Any) -> None:
    """Shard the parameters of ``module.net`` over all ranks, block by block."""
    settings = {
        "mesh": module.device_mesh["data_parallel"],
        "mp_policy": precision_policy(module.net, module.trainer.precision),
    }
    for block in blocks(module.net):
        fully_shard(block, **settings)
    fully_shard(module.net, **settings)
    if any(parameter.is_meta for parameter in module.net.parameters()):
        module.net.to_empty(device=module.trainer.strategy.root_device)
        module.net.draw_weights(torch.initial_seed())


def precision_policy(net: nn.Module, precision: str) -> MixedPrecisionPolicy:
    """Return in which types weights are gathered and gradients reduced.

    The shares, the optimizer's state and the reduction stay in fp32. Autocast would gather fp32
    weights and keep a bf16 copy of all of them until the forward pass ends.

    Args:
        net: The network. With batch norm it computes with fp32 weights under autocast, as torch's
            kernels want a norm's weights in the type of its statistics.
        precision: The trainer's precision.

    Returns:
        The policy of every sharded part.
    """
    if precision != "bf16-mixed" or any(isinstance(part, _BatchNorm) for part in net.modules()):
        return MixedPrecisionPolicy()
    # Autocast decides on the types of activations, so that they are those of a network in one part.
    return MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)


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


def _sharded_parts(net: nn.Module) -> Iterator[FSDPModule]:
    yield from (part for part in net.modules() if isinstance(part, FSDPModule))
