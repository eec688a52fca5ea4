"""Lightning's distributed strategies with the settings that the recipes need."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from lightning.pytorch.utilities.model_helpers import is_overridden

from recipes.cli.fsdp2 import FSDP2Strategy, shard


def build_strategy(name: str | Strategy, module: L.LightningModule) -> str | Strategy:
    """Build ``ddp`` or ``fsdp2`` for a module; leave Lightning's other strategies as they are."""
    if name == "ddp":
        # Broadcasting buffers in evaluation would deadlock ranks with unequal numbers of samples.
        return DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
    if name == "fsdp2" or isinstance(name, FSDP2Strategy):
        if is_overridden("configure_model", module):
            raise ValueError(
                f"--trainer.strategy fsdp2: {type(module).__name__} shards its network by itself; "
                "use --trainer.strategy ddp"
            )
        module.configure_model = lambda: shard(module)  # type: ignore[method-assign]
        module.draws_after_sharding = True  # type: ignore[assignment]
        return FSDP2Strategy() if name == "fsdp2" else name
    if isinstance(name, ModelParallelStrategy):
        # By default a whole node is one data-parallel rank: gradients would not be averaged.
        raise ValueError(
            "--trainer.strategy ModelParallelStrategy splits matrices over devices, which no "
            "network here does; use --trainer.strategy fsdp2"
        )
    return name
