"""The ``speed`` command: time the training step in Lightning and in a plain loop, in one run."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory

from callbacks.live_line import LIVE
from callbacks.quality_target import RunState
from callbacks.warm_up import without_logging
from datamodules.common.base import BenchmarkDataModule
from recipes.cli.arguments import Arguments
from recipes.cli.benchmark import Benchmark
from recipes.cli.doing import doing
from recipes.cli.noise import quiet
from recipes.cli.parser import RecipeCLI
from recipes.cli.presets import announce_demo
from recipes.cli.run import Run
from recipes.cli.usage import UsageError

# Peak FLOP/s without sparsity, from the vendors' data sheets: (bf16 or fp16, TF32, fp32).
PEAK_FLOPS = {
    "A100": (312e12, 156e12, 19.5e12),
    "H100": (989e12, 494e12, 67e12),
    "H200": (989e12, 494e12, 67e12),
}
ROUNDS = 3  # Lightning and the plain loop take turns, so that a busy machine slows both alike
BATCHES = 4  # real batches that are kept and reused
SKIPPED = 3  # steps of each round that are not counted


def speed(benchmark: Benchmark, arguments: Arguments) -> int:
    """Measure the training step; return 0."""
    quiet()
    cli = RecipeCLI(benchmark, "speed", arguments)
    if cli.config.steps <= SKIPPED + 1:
        raise UsageError(f"--steps must be more than {SKIPPED + 1}, got {cli.config.steps}")
    if cli.demo:
        announce_demo(benchmark, "speed", cli.arguments, spares_mac=cli.spares_mac)
    measure(benchmark, cli, cli.config.steps)
    return 0


class StepTimes(L.Callback):
    """Record the end of every step of a Lightning run."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        synchronize()
        self.moments.append(time.perf_counter())


class Replay(BenchmarkDataModule):
    """Serve a few real batches from the CPU again and again, so that only the step is timed."""

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


def measure(benchmark: Benchmark, cli: RecipeCLI, steps: int) -> dict[str, Any]:
    """Measure and print samples/s, ms/step, data wait, FLOP/s, memory and the plain loop."""
    with doing("preparing the data"):
        cli.datamodule.prepare_data()
    batches, wait = _read_batches(cli.datamodule, steps)
    lightning_ms: list[float] = []
    plain_ms: list[float] = []
    trainer: Any = None
    for number in range(ROUNDS):
        LIVE.show(f"measuring, round {number + 1} of {ROUNDS}")
        times = StepTimes()
        trainer = _lightning_round(benchmark, cli, batches, steps, times)
        lightning_ms += _milliseconds(times.moments)
        plain_ms += _milliseconds(_plain_round(cli, trainer, batches, steps))
    figures = _figures(cli, trainer, lightning_ms, plain_ms, wait)
    _show(figures)
    # Work outside the steps, such as self-play.
    own: Any = getattr(cli.model, "speed_figures", None)
    others: dict[str, Any] = own(cli.datamodule) if callable(own) else {}
    _show(others)
    return figures | others


def _show(figures: dict[str, Any]) -> None:
    for name, value in figures.items():
        print(f"{name:32} {value if isinstance(value, str) else format(value, '.4g')}", flush=True)


def _read_batches(datamodule: Any, steps: int) -> tuple[list[Any], float]:
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
    if torch.cuda.is_available():
        kept = pin_memory(kept)  # as a run's loaders do, during the step
    return kept, statistics.median(seconds[1:] or seconds)


def _lightning_round(
    benchmark: Benchmark, cli: RecipeCLI, batches: list[Any], steps: int, times: L.Callback
) -> L.Trainer:
    # The same callbacks and loggers as a real run, in a directory that is deleted.
    with TemporaryDirectory() as folder:
        cli.config.output_root = Path(folder)
        schedule = cli.config_init.evaluation
        schedule.first = schedule.every = 1e15
        schedule.limit, schedule.unit = 1, "epochs"
        cli.config_init.trainer.callbacks = [times]
        run = Run(benchmark, cli, RunState(), resumed_from=None)
        run.trainer.fit(cli.model, datamodule=Replay(cli.datamodule, batches, steps))
    return run.trainer


def _plain_round(cli: RecipeCLI, trainer: L.Trainer, batches: list[Any], steps: int) -> list[float]:
    module, moments = cli.model, []
    accumulation = trainer.accumulate_grad_batches
    configured: Any = module.configure_optimizers()
    optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
    device = trainer.strategy.root_device
    module.to(device)
    module.train()
    with without_logging(module):
        for index in range(steps):
            batch = cli.datamodule.transfer_batch_to_device(
                batches[index % len(batches)], device, 0
            )
            with trainer.precision_plugin.train_step_context():
                loss: Any = module.training_step(batch, index)
            loss = loss["loss"] if isinstance(loss, dict) else loss
            (loss / accumulation).backward()
            if (index + 1) % accumulation == 0 or index + 1 == steps:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            synchronize()
            moments.append(time.perf_counter())
    return moments


def _milliseconds(moments: list[float]) -> list[float]:
    counted = moments[SKIPPED - 1 :]
    return [1000 * (b - a) for a, b in zip(counted, counted[1:], strict=False)]


def _figures(
    cli: RecipeCLI,
    trainer: L.Trainer,
    lightning_ms: list[float],
    plain_ms: list[float],
    wait: float,
) -> dict[str, Any]:
    median = statistics.median(lightning_ms)
    samples = cli.datamodule.batch_size / median * 1000
    flops = cli.config_init.warmup.flops_per_sample
    device = trainer.strategy.root_device
    workers = max(1, getattr(cli.datamodule, "num_workers", 0))
    # Loader processes make the next batch during the step; only the rest is a wait.
    waited = wait * 1000 if workers == 1 else max(0.0, wait * 1000 / workers - median)
    figures: dict[str, Any] = {
        "device": _device_name(device),
        "precision": str(trainer.precision),
        "samples/s": samples,
        "ms/step median": median,
        "ms/step p90": statistics.quantiles(lightning_ms, n=10)[-1],
        "data wait share": waited / (waited + median),
        "plain loop ms/step median": statistics.median(plain_ms),
        "Lightning / plain loop": median / statistics.median(plain_ms),
    }
    if flops:
        figures["model FLOP/s"] = flops * samples
        peak = _peak(device, str(trainer.precision))
        figures["MFU"] = flops * samples / peak if peak else "unknown (no peak for this device)"
    figures["peak memory GiB"] = _peak_memory(device)
    return figures


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def _peak(device: torch.device, precision: str) -> float | None:
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    half, tf32, single = next((v for k, v in PEAK_FLOPS.items() if k in name), (0.0, 0.0, 0.0))
    if "16" in precision:
        return half or None
    return (tf32 if torch.get_float32_matmul_precision() != "highest" else single) or None


def _peak_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
