"""Untimed warm-up on synthetic batches: compile, set the memory layout, count FLOPs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from callbacks.compilation import compile_net
from callbacks.fused_optimizer import fuse
from callbacks.live_line import LIVE
from callbacks.preserve_state import preserve_state

LAYOUTS = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
    "channels_last_3d": torch.channels_last_3d,
}


class WarmUp(Callback):
    """Run training steps on synthetic data before the clock starts, then restore all state.

    The rules allow compilation, graph capture and allocator warm-up before ``run_start`` as long
    as only synthetic tensors are used. Weights are never stepped; buffers, gradients and random
    states are restored.

    Args:
        steps: Forward and backward passes. With 0 there is no warm-up and no FLOP count.
        compile: Compile what training calls with ``torch.compile``. That is ``net``, or those of
            its methods that the module names in ``compiled_calls``; in place.
        compile_mode: All but ``default`` use CUDA graphs. They help on GPUs where a step is so
            short that launching its kernels takes a large part of it. Not with accumulation, or
            where a step calls the network several times: replays overwrite earlier gradients.
        memory_format: Layout of the network's weights.
        cudnn_benchmark: Let cuDNN time algorithms per shape. Slower where shapes keep changing.
        matmul_precision: ``high`` allows TF32, ``highest`` keeps fp32. Both hold for matrix
            products and for convolutions, where torch's own default is TF32.
        fused_optimizer: Use torch's fused optimizer kernels. Not for LAMB, LARS and sparse steps.

    Raises:
        ValueError: If gradients are accumulated over batches or calls that CUDA graphs compute.

    Source:
        mlcommons/training_policies, training_rules.adoc (v1.0): what may happen before run_start.
    """

    def __init__(
        self,
        steps: int = 1,
        *,
        compile: bool = False,
        compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default",
        memory_format: Literal["contiguous", "channels_last", "channels_last_3d"] = "contiguous",
        cudnn_benchmark: bool = True,
        matmul_precision: Literal["highest", "high", "medium"] = "highest",
        fused_optimizer: bool = False,
    ) -> None:
        self.steps, self.compile, self.compile_mode = steps, compile, compile_mode
        self.memory_format = memory_format
        self.cudnn_benchmark, self.matmul_precision = cudnn_benchmark, matmul_precision
        self.fused_optimizer = fused_optimizer
        self.flops_per_sample: float | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        graphs = self.compile and self.compile_mode != "default"
        if graphs and trainer.accumulate_grad_batches > 1:
            raise ValueError(
                f"--warmup.compile_mode {self.compile_mode} replays CUDA graphs, which overwrite "
                f"gradients that are accumulated over {trainer.accumulate_grad_batches} batches; "
                "use --warmup.compile_mode default or --trainer.accumulate_grad_batches 1"
            )
        if graphs and hasattr(pl_module, "compiled_calls") and pl_module.compiled_calls:
            raise ValueError(
                f"--warmup.compile_mode {self.compile_mode} replays CUDA graphs, which overwrite "
                f"gradients that a step of {type(pl_module).__name__} adds up over several calls "
                "of its net; use --warmup.compile_mode default"
            )

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for optimizer in trainer.optimizers if self.fused_optimizer else ():
            fuse(optimizer)
        torch.backends.cudnn.benchmark = self.cudnn_benchmark
        torch.set_float32_matmul_precision(self.matmul_precision)
        torch.backends.cudnn.allow_tf32 = self.matmul_precision != "highest"
        net: nn.Module = getattr(pl_module, "net", pl_module)  # type: ignore[assignment]
        if self.memory_format != "contiguous":
            net.to(memory_format=LAYOUTS[self.memory_format])  # type: ignore[call-overload]
        datamodule: Any = getattr(trainer, "datamodule", None)
        sharded = isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy)
        if not self.steps or sharded or not hasattr(datamodule, "synthetic_batch"):
            if self.compile:
                compile_net(pl_module, self.compile_mode)
            return
        LIVE.show("warming up on synthetic batches")
        with preserve_state(pl_module):
            batch = pl_module.transfer_batch_to_device(
                datamodule.synthetic_batch(), pl_module.device, 0
            )
            self._count_flops(trainer, pl_module, batch, int(datamodule.batch_size))
            if self.compile:
                compile_net(pl_module, self.compile_mode)
            for _ in range(self.steps - 1 + self.compile):
                synthetic_step(trainer, pl_module, batch)
            self._warm_up_evaluation(trainer, pl_module)
        pl_module.zero_grad(set_to_none=True)

    @staticmethod
    def _warm_up_evaluation(trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Run the evaluation's shapes once where the module has ``warm_up_evaluation``."""
        warm_up = getattr(pl_module, "warm_up_evaluation", None)
        if not callable(warm_up):
            return
        pl_module.eval()
        with torch.no_grad(), trainer.precision_plugin.val_step_context():
            warm_up()

    def _count_flops(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_size: int) -> None:
        with FlopCounterMode(display=False) as counter:
            synthetic_step(trainer, pl_module, batch)
        analytic = getattr(pl_module, "train_flops", None)
        flops = analytic(batch) if callable(analytic) else counter.get_total_flops()
        self.flops_per_sample = flops / batch_size if flops else None


def synthetic_step(trainer: L.Trainer, pl_module: L.LightningModule, batch: Any) -> torch.Tensor:
    """Run one forward and backward pass outside Lightning's loop; return the loss, a scalar."""
    with without_logging(pl_module), trainer.precision_plugin.train_step_context():
        loss: Any = pl_module.training_step(batch, 0)
    loss = loss["loss"] if isinstance(loss, dict) else loss
    loss.backward()
    return loss.detach()


@contextmanager
def without_logging(pl_module: L.LightningModule) -> Iterator[None]:
    """Make ``self.log`` do nothing within a block: outside its loops Lightning raises there."""
    silent: Any = lambda *args, **kwargs: None  # noqa: E731
    pl_module.log = pl_module.log_dict = silent  # type: ignore[method-assign]
    try:
        yield
    finally:
        del pl_module.log, pl_module.log_dict
