"""The costliest operators of a training step, and its trace."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from recipes.speed.flags import SpeedCLI
from recipes.speed.loops import plain_round

SHOWN = 10
STEPS = 2  # the first, untraced, chooses algorithms and allocates


def profile_steps(
    cli: SpeedCLI, trainer: L.Trainer, batches: list[Any], trace: Path
) -> list[dict[str, Any]]:
    """Trace a step of the plain loop with the settings of the configuration.

    Args:
        cli: Module and data module.
        trainer: That of a finished Lightning round.
        batches: Batches on the CPU.
        trace: File for the Chrome trace (chrome://tracing, ui.perfetto.dev).

    Returns:
        The costliest operators, kernels on a GPU: ``name``, ``ms`` of the device per step without
        those that an operator calls, ``share`` of all, and ``calls``.
    """
    on_gpu = trainer.strategy.root_device.type == "cuda"
    if not on_gpu:
        os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # it reports the lack of a GPU as an error
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    plain_round(cli, trainer, batches, STEPS - 1)
    with profile(activities=activities, acc_events=True) as profiler:
        plain_round(cli, trainer, batches, 1)
    profiler.export_chrome_trace(str(trace))
    return costliest(profiler.key_averages(), on_gpu=on_gpu)


def costliest(averages: Iterable[Any], *, on_gpu: bool) -> list[dict[str, Any]]:
    """Return the rows of the costliest among a profiler's averages."""
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    # On a GPU operators and annotations have the time of their kernels once more.
    events = [e for e in averages if not on_gpu or _is_kernel(e)]
    events.sort(key=lambda event: -getattr(event, key))
    total = sum(getattr(event, key) for event in events) or 1
    return [
        {
            "name": event.key,
            "ms": getattr(event, key) / 1000,
            "share": getattr(event, key) / total,
            "calls": event.count,
        }
        for event in events[:SHOWN]
    ]


def _is_kernel(event: Any) -> bool:
    return event.device_type != DeviceType.CPU and not getattr(event, "is_user_annotation", False)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines of the table."""
    head = f"{'ms':>9}  {'share':>6}  {'calls':>6}  operator"
    return [head] + [
        f"{row['ms']:9.3f}  {row['share']:6.1%}  {row['calls']:6d}  {row['name'][:80]}"
        for row in rows
    ]
