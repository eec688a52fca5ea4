"""The figures of measured steps."""

from __future__ import annotations

import statistics
from typing import Any

import lightning as L
import torch

from recipes.speed.flags import SpeedCLI
from recipes.speed.memory import GIB, peak_memory

# Peak FLOP/s without sparsity, from the vendors' data sheets: (bf16 or fp16, TF32, fp32).
PEAK_FLOPS = {
    "A100": (312e12, 156e12, 19.5e12),
    "H100": (989e12, 494e12, 67e12),
    "H200": (989e12, 494e12, 67e12),
}


def step_figures(
    cli: SpeedCLI,
    trainer: L.Trainer,
    lightning_ms: list[float],
    plain_ms: list[float],
    wait: float | None,
) -> dict[str, Any]:
    """Return the figures of steps; ``wait`` is the loader's seconds per batch, if there is one."""
    data: Any = cli.datamodule
    median = statistics.median(lightning_ms)
    samples = data.batch_size / median * 1000
    flops = cli.config_init.warmup.flops_per_sample
    device = trainer.strategy.root_device
    peak = _peak(device, str(trainer.precision))
    return {
        "batch_size": data.batch_size,
        "samples_per_second": samples,
        "ms_per_step_median": median,
        "ms_per_step_p90": _ninth_decile(lightning_ms),
        "data_wait_share": _wait_share(wait, getattr(data, "num_workers", 0), median),
        "plain_ms_per_step_median": statistics.median(plain_ms),
        "lightning_over_plain": median / statistics.median(plain_ms),
        "model_flops_per_second": flops * samples if flops else None,
        "mfu": flops * samples / peak if flops and peak else None,
        "peak_memory_gib": peak_memory(device) / GIB,
    }


def _ninth_decile(values: list[float]) -> float:
    # Inclusive: of a few values the other method makes one beyond the largest.
    if len(values) < 2:
        return values[0]
    return statistics.quantiles(values, n=10, method="inclusive")[-1]


def _wait_share(seconds: float | None, workers: int, step_ms: float) -> float | None:
    if seconds is None:
        return None
    # Loader processes make the next batch during the step; only the rest is a wait.
    several = workers > 1
    waited = max(0.0, 1000 * seconds / workers - step_ms) if several else 1000 * seconds
    return waited / (waited + step_ms)


def device_name(device: torch.device) -> str:
    """Return the name of a device, such as ``NVIDIA H200``."""
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
