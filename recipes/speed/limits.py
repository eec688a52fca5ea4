"""The physical limits of a device, measured: a large matrix product and a large copy."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from recipes.speed.loops import synchronize

REPEATS = 5
SIZES = {"cuda": (8192, 2**30), "cpu": (1024, 2**27)}  # rows of the matrices, bytes of the copy


def measure_limits(device: torch.device) -> dict[str, Any]:
    """Measure a device.

    Args:
        device: Where training runs.

    Returns:
        ``product_tflops`` of the faster of bf16 and fp32, which ``product_dtype`` names, and
        ``copy_gb_per_second``, bytes read and written, in 10^9.
    """
    rows, size = SIZES.get(device.type, SIZES["cpu"])
    dtypes = (torch.bfloat16,) if device.type == "cuda" else (torch.bfloat16, torch.float32)
    seconds = {dtype: _product_seconds(rows, dtype, device) for dtype in dtypes}
    fastest = min(seconds, key=lambda dtype: seconds[dtype])
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = _seconds(lambda: target.copy_(source))
    return {
        "product_tflops": 2 * rows**3 / seconds[fastest] / 1e12,
        "product_dtype": str(fastest).removeprefix("torch."),
        "copy_gb_per_second": 2 * size / copy / 1e9,
    }


def _product_seconds(rows: int, dtype: torch.dtype, device: torch.device) -> float:
    a, b = torch.randn(2, rows, rows, device=device).to(dtype)
    return _seconds(lambda: torch.mm(a, b))


def _seconds(work: Callable[[], Any]) -> float:
    """Return the median of some repeats, after one that is not counted."""
    seconds = []
    for _ in range(REPEATS + 1):
        synchronize()
        start = time.perf_counter()
        work()
        synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])
