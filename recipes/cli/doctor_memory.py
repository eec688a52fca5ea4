"""The doctor's view of memory: what a run will need on each rank, and what this machine has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from datamodules.common.memory import GIB, MemoryNeed, machine_bytes
from recipes.cli.benchmark import Benchmark


def device_bytes() -> list[int]:
    """Return the memory of each CUDA device."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.cuda.get_device_properties(index).total_memory for index in range(count)]


def shortages(benchmark: Benchmark, datamodule: Any, *, own_data: bool) -> Iterator[str]:
    """Say which memory a run on all devices of this machine lacks.

    Args:
        benchmark: The data sheet.
        datamodule: The data module, with a root.
        own_data: The data decides about sizes, as in the open division.

    Yields:
        One line per kind of memory.
    """
    devices = device_bytes()
    if line := _model_line(benchmark, datamodule, devices, own_data=own_data):
        yield line
    needs: Sequence[MemoryNeed] = getattr(datamodule, "memory_needs", list)()
    for need in needs:
        on_device = need.on_device and devices
        ranks = 1 if on_device else max(1, len(devices))
        total = min(devices) if on_device else machine_bytes()
        wanted = need.num_bytes * ranks
        if wanted > total:
            per_rank = f" ({need.num_bytes / GIB:.1f} on each of {ranks} ranks)" * (ranks > 1)
            where = "each device has" if on_device else "this machine has"
            yield (
                f"memory for {need.what}: {wanted / GIB:.1f} GiB{per_rank}, {where} "
                f"{total / GIB:.1f} GiB; {need.advice}"
            )


def closed_memory(benchmark: Benchmark) -> str | None:
    """Say what each device takes at the closed settings: of this machine's, else of 1 and 8."""
    if (training := benchmark.needs.training) is None:
        return None
    devices, assumed = device_bytes(), f" ({training.assumes})" * bool(training.assumes)
    if devices:
        count, has = len(devices), min(devices) / GIB
        return (
            f"memory of each GPU, of {count}{assumed}: {training.text(count)}; it has {has:.1f} GiB"
        )
    texts = (f"{training.text(count)} of {count}" for count in (1, 8))
    return f"memory of each GPU at the closed settings{assumed}: {'; '.join(texts)}"


def _model_line(
    benchmark: Benchmark, datamodule: Any, devices: Sequence[int], *, own_data: bool
) -> str | None:
    """Compare what the reference's network needs on all devices, or on the CPU."""
    training = benchmark.needs.training
    if training is not None and devices and not own_data:
        line = training.shortage(min(devices), len(devices), kind="GPU")
        return line and f"memory for the closed settings: {line}"
    needed = benchmark.needs.device_gib
    if own_data and benchmark.needs.device_gib_of is not None:
        try:
            needed = benchmark.needs.device_gib_of(datamodule.net_facts())
        except (OSError, ValueError):  # not prepared yet
            return None
    total = sum(devices) if devices else machine_bytes()
    if not needed or needed * GIB <= total:
        return None
    kind = "GPU memory" if devices else "memory, as there is no CUDA device"
    use = "use more GPUs" if devices else "use GPUs"
    return (
        f"the {'data' if own_data else 'closed settings'} need {needed:.1f} GiB of {kind}; "
        f"{total / GIB:.0f} GiB are available: {use}, or a preset in "
        f"recipes/presets/{benchmark.name}/"
    )
