"""Training steps on a few batches, through Lightning and in a plain loop."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory

from callbacks.checkpoint import Checkpoint, LastCheckpoint
from callbacks.fused_optimizer import changed_optimizers
from callbacks.quality_target import RunState
from callbacks.warm_up import without_logging
from datamodules.common.base import BenchmarkDataModule
from recipes.cli.benchmark import Benchmark
from recipes.cli.parser import RecipeCLI
from recipes.cli.run import Run

BATCHES = 4  # batches that are kept and reused
NOT_TIMED = (Checkpoint, LastCheckpoint)
MOST_SKIPPED = 3  # steps of each round that are not counted


class StepTimes(L.Callback):
    """Record the end of every step of a Lightning run."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        synchronize()
        self.moments.append(time.perf_counter())


class Replay(BenchmarkDataModule):
    """Serve a few batches from the CPU again and again, so that only the step is timed."""

    def __init__(self, source: Any, batches: Sequence[Any], steps: int) -> None:
        super().__init__()
        self._source, self._batches, self._steps = source, batches, steps
        self.batch_size = source.batch_size
        self.samples_per_epoch = self.num_train_samples = source.batch_size * steps
        self.synthetic_batch: Callable[[], Any] = source.synthetic_batch

    def train_dataloader(self) -> DataLoader[Any]:
        many = [self._batches[i % len(self._batches)] for i in range(self._steps)]
        return _loader(many)

    def val_dataloader(self) -> DataLoader[Any]:
        return _loader(self._batches[:1])

    def transfer_batch_to_device(self, batch: Any, device: torch.device, index: int) -> Any:
        return self._source.transfer_batch_to_device(batch, device, index)


def _loader(batches: Sequence[Any]) -> DataLoader[Any]:
    # Batches as they are: torch's collate function would turn their arrays into tensors.
    return DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]


def synchronize() -> None:
    """Wait for the GPU, where one is used."""
    # Not is_available(): querying for a device would cost a measurable share of a step.
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def read_batches(datamodule: Any, steps: int) -> tuple[list[Any], float]:
    """Return real batches and the median seconds that the loader takes for one."""
    loader = datamodule.train_dataloader()
    kept: list[Any] = []
    seconds: list[float] = []
    # The second pass counts: a run has many epochs, and caches are filled in the first.
    for _ in range(2):
        kept, seconds = [], []
        start = time.perf_counter()
        for batch in islice(loader, steps):
            seconds.append(time.perf_counter() - start)
            kept = kept if len(kept) == BATCHES else [*kept, batch]
            start = time.perf_counter()
    return pinned(kept), statistics.median(seconds[1:] or seconds)


def pinned(batches: list[Any]) -> list[Any]:
    """Pin the memory of batches, as a run's loaders do during the step."""
    return pin_memory(batches) if torch.cuda.is_available() else batches


def lightning_round(
    benchmark: Benchmark, cli: RecipeCLI, batches: list[Any], steps: int, times: L.Callback
) -> L.Trainer:
    """Train some steps with the callbacks and loggers of a real run, in a deleted directory."""
    with TemporaryDirectory() as folder:
        cli.config.output_root = Path(folder)
        schedule = cli.config_init.evaluation
        schedule.first = schedule.every = 1e15
        schedule.limit, schedule.unit = 1, "epochs"
        cli.config_init.trainer.callbacks = [times]
        trainer: Any = Run(benchmark, cli, RunState(), resumed_from=None).trainer
        # A checkpoint would hold the tables of DLRM, 89.5 GiB, and take longer than the steps.
        trainer.callbacks = [each for each in trainer.callbacks if not isinstance(each, NOT_TIMED)]
        with _training_only(cli.model):
            trainer.fit(cli.model, datamodule=Replay(cli.datamodule, batches, steps))
    return trainer


@contextmanager
def _training_only(module: Any) -> Iterator[None]:
    """Warm up no evaluation, as there is none, and leave weights on the GPU for the plain loop.

    An evaluation's batches are larger than training's. Main memory may be smaller than DLRM's
    tables, 89.5 GiB, and copying them takes minutes.
    """
    module.cpu, module.warm_up_evaluation = lambda: module, None
    try:
        yield
    finally:
        del module.cpu, module.warm_up_evaluation


def weights_held(module: Any) -> AbstractContextManager[None]:
    """Give the module optimizers whose steps cost what they always do and move no weight.

    Random batches make some networks diverge in a few steps; a detector whose outputs are NaN
    proposes nothing and cannot be evaluated.

    Args:
        module: Its ``configure_optimizers`` is replaced within the block.

    Returns:
        The block.
    """
    return changed_optimizers(
        module, lambda optimizer: optimizer.register_step_pre_hook(_without_rate)
    )


def _without_rate(optimizer: Any, *args: Any) -> None:
    for group in optimizer.param_groups:
        group["lr"] = 0.0


def plain_round(cli: RecipeCLI, trainer: L.Trainer, batches: list[Any], steps: int) -> list[float]:
    """Train some steps in a plain loop; return the moment at which each ended."""
    moments: list[float] = []
    accumulation = trainer.accumulate_grad_batches
    with plain_training(cli, trainer) as (optimizer, forward):
        for index in range(steps):
            loss = forward(batches[index % len(batches)], index)
            (loss / accumulation).backward()
            if (index + 1) % accumulation == 0 or index + 1 == steps:
                cli.model.configure_gradient_clipping(optimizer)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            synchronize()
            moments.append(time.perf_counter())
    return moments


Forward = Callable[[Any, int], torch.Tensor]


@contextmanager
def plain_training(
    cli: RecipeCLI, trainer: L.Trainer, autocast: Callable[[], Any] | None = None
) -> Iterator[tuple[Any, Forward]]:
    """Give a new optimizer, and the function (batch on the CPU, index) -> loss.

    Args:
        cli: The command line with module and data module.
        trainer: That of a finished Lightning round.
        autocast: Context of the forward pass; the trainer's precision by default.

    Yields:
        Optimizer and function.
    """
    module, device = cli.model, trainer.strategy.root_device
    for old in trainer.optimizers:
        old.state.clear()  # otherwise two optimizers' states would be in memory
    module.to(device)
    module.train()
    module.zero_grad(set_to_none=True)
    configured: Any = module.configure_optimizers()
    optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
    context = autocast or trainer.precision_plugin.train_step_context

    def forward(batch: Any, index: int) -> torch.Tensor:
        batch = cli.datamodule.transfer_batch_to_device(batch, device, 0)
        with context():
            loss: Any = module.training_step(batch, index)
        return loss["loss"] if isinstance(loss, dict) else loss

    with without_logging(module):
        yield optimizer, forward
    module.zero_grad(set_to_none=True)


def milliseconds(moments: list[float]) -> list[float]:
    """Return the duration of each counted step: the first few, at most half, are not."""
    counted = moments[skipped(len(moments)) - 1 :]
    return [1000 * (b - a) for a, b in zip(counted, counted[1:], strict=False)]


def skipped(steps: int) -> int:
    """Return how many steps of a round are not counted."""
    return min(MOST_SKIPPED, max(1, steps // 2))
