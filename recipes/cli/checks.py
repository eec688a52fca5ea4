"""Checks of single settings, each with an error of one line."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from callbacks.checkpoint_files import LAST, PREVIOUS, is_checkpoint
from modules.common.torch_file import load_verified
from recipes.cli.arguments import Arguments
from recipes.cli.benchmark import Benchmark
from recipes.cli.usage import UsageError


def check_devices(accelerator: str, devices: Any) -> None:
    """Raise if there are too few devices, before processes start that wait for each other."""
    wanted = len(devices) if isinstance(devices, list | tuple) else str(devices)
    gpus = torch.cuda.device_count()
    if auto_takes_mac_gpu(accelerator):
        return  # Lightning knows how many of these there are
    on_gpu = accelerator in ("cuda", "gpu") or (accelerator == "auto" and gpus > 0)
    if not (on_gpu or accelerator in ("cpu", "auto")) or not str(wanted).isdigit():
        return
    available = gpus if on_gpu else os.cpu_count() or 1
    if int(wanted) > available:
        kind = "CUDA devices" if on_gpu else "CPU cores and no CUDA device"
        raise UsageError(f"--trainer.devices {devices}: this machine has {available} {kind}")


def auto_takes_mac_gpu(accelerator: str) -> bool:
    """Whether Lightning would choose a Mac's GPU."""
    none_other = accelerator == "auto" and not torch.cuda.device_count()
    return none_other and torch.backends.mps.is_available()


def check_budget(trainer: Any) -> None:
    """Raise if a flag of the trainer leaves nothing to train."""
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if trainer[name] == 0:
            raise UsageError(
                f"--trainer.{name} 0: nothing would be trained; give more, or leave the flag out"
            )
    if trainer.accumulate_grad_batches < 1:
        raise UsageError(
            f"--trainer.accumulate_grad_batches {trainer.accumulate_grad_batches}: a step takes at "
            "least 1 batch"
        )


def check_price(cost_per_hour: float | None) -> None:
    """Raise if ``--cost_per_hour`` is not an amount of money."""
    if cost_per_hour is not None and not 0 <= cost_per_hour < math.inf:
        raise UsageError(f"--cost_per_hour {cost_per_hour}: give 0 or more, in any currency")


def check_metrics(wanted: Iterable[str], measured: Sequence[str]) -> None:
    """Raise if the target names a metric that the benchmark does not measure."""
    unknown = sorted({name.removeprefix("val/") for name in wanted} - set(measured))
    if unknown:
        raise UsageError(
            f"--target.metrics: {', '.join(unknown)} does not exist; this benchmark measures: "
            f"{', '.join(sorted(measured))}"
        )


def check_named_checkpoint(benchmark: Benchmark, arguments: Arguments) -> None:
    """Check a checkpoint before its run's configuration is parsed, which may not fit."""
    path = arguments.value("--ckpt_path")
    if path not in (None, "last", "auto"):
        check_checkpoint(benchmark, Path(str(path)))


def check_checkpoint(benchmark: Benchmark, path: Path) -> None:
    """Raise if a checkpoint is missing, damaged or another benchmark's."""
    if not is_checkpoint(path):
        raise UsageError(f"--ckpt_path: no file {path}")
    try:
        content = load_verified(path, mmap=True)
    except ValueError as error:
        previous = path.with_name(PREVIOUS)
        hint = (
            f" ({previous} is the one before)"
            if path.name == LAST and is_checkpoint(previous)
            else ""
        )
        raise ValueError(f"{error}{hint}") from error
    writer = content.get("finishline_benchmark") if isinstance(content, dict) else None
    if writer != benchmark.name:
        raise UsageError(
            f"--ckpt_path: {path} was written by "
            f"{'another program' if writer is None else writer}, not by {benchmark.name}"
        )
    if "state_dict" not in content:
        raise ValueError(f"{path} holds no weights; pass a different file")


def check_weights(model: Any, path: Path) -> None:
    """Raise if a checkpoint's tensors are not the network's. One that is built later may tell."""
    expected = getattr(model, "expected_state", model.state_dict)()
    # Torch's lazy layers take their shapes from the checkpoint.
    own = {
        name: None if is_lazy(x) else tuple(x.shape)
        for name, x in expected.items()
        if name[:4] == "net."
    }
    content = load_verified(path, mmap=True)
    saved = {n: tuple(x.shape) for n, x in content["state_dict"].items() if n[:4] == "net."}
    lines = [
        f"{name} is {saved.get(name, 'missing')} instead of {shape or 'there'}"
        for name, shape in own.items()
        if name not in saved or shape not in (None, saved[name])
    ]
    lines += [f"{name} is not one of the network's" for name in saved if own and name not in own]
    if lines:
        more = f" and {len(lines) - 1} more" if lines[1:] else ""
        raise ValueError(
            f"{path} holds the weights of another network: {lines[0]}{more}; pass its run's "
            "config.yaml with --config FILE"
        )
