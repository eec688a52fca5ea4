"""Published rates per accelerator and the work of a sample, which ship with the package."""

from __future__ import annotations

import csv
import re
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def _rows(name: str) -> tuple[dict[str, str], ...]:
    text = (files("recipes.speed") / name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return tuple(csv.DictReader(lines))


def best_published(benchmark: str, device: str) -> dict[str, Any] | None:
    """Look up the best published rate per accelerator.

    Args:
        benchmark: Name of the benchmark.
        device: Name of the device that is measured: if it was published, only its own rates count.

    Returns:
        ``best`` in samples/s, ``accelerator``, ``source``; None if nothing was published.
    """
    rows = [row for row in _rows("published.csv") if row["benchmark"] == benchmark]
    # A word of it: "NVIDIA A100-SXM4-80GB" is an A100, "NVIDIA GH200 480GB" no H200.
    rows = [row for row in rows if re.search(rf"\b{row['accelerator']}\b", device)] or rows
    if not rows:
        return None
    best = max(rows, key=lambda row: float(row["per_second"]))
    return {
        "best": float(best["per_second"]),
        "accelerator": best["accelerator"],
        "source": f"{best['source']}, {best['how']}",
    }


def unit_of(benchmark: str) -> str:
    """Return what is counted, such as ``images``."""
    return next((r["unit"] for r in _rows("work.csv") if r["benchmark"] == benchmark), "samples")


def limit_of(benchmark: str, limits: dict[str, Any]) -> float | None:
    """Return the samples per second that a device cannot exceed.

    Args:
        benchmark: Name of the benchmark.
        limits: Of ``measure_limits``.

    Returns:
        The smaller of what its products and its memory allow; None for an unknown benchmark.
    """
    for row in _rows("work.csv"):
        if row["benchmark"] == benchmark:
            rates = [1e12 * limits["product_tflops"] / (1e9 * float(row["gflop"]))]
            if row["megabytes"]:
                rates.append(1e9 * limits["copy_gb_per_second"] / (1e6 * float(row["megabytes"])))
            return min(rates)
    return None


def beside_published(
    benchmark: str, device: str, rates: dict[str, Any], limits: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Set a measured rate next to the device's limit and the best published one.

    Args:
        benchmark: Name of the benchmark.
        device: Name of the device.
        rates: ``samples_per_second``, or where games or other things are counted their own.
        limits: Of ``measure_limits``.

    Returns:
        ``limit`` and, if there is one, ``published`` as the JSON file has them; and the same in
        words, one line each.
    """
    unit, limit = unit_of(benchmark), limit_of(benchmark, limits)
    rate = rates.get(f"{unit}_per_second", rates["samples_per_second"])
    parts: dict[str, Any] = {"limit": {**limits, "samples_per_second": limit}}
    line = (
        f"limit of this device: {limits['product_tflops']:.3g} TFLOP/s in "
        f"{limits['product_dtype']} products, {limits['copy_gb_per_second']:.3g} GB/s in copies"
    )
    if limit is not None:
        line += f": {limit:.4g} {unit}/s, reached to {percent(rate / limit)}"
    best = best_published(benchmark, device)
    if best is None:
        return parts, [line]
    parts["published"] = {
        "unit": f"{unit}/s",
        **best,
        "share_of_best": rate / best["best"],
        "share_of_limit": None if limit is None else rate / limit,
    }
    return parts, [
        line,
        f"published best: {best['best']:,.10g} {unit}/s per {best['accelerator']} "
        f"({best['source']}); here {rate:,.4g}, {percent(rate / best['best'])} of it",
    ]


def percent(share: float) -> str:
    """Write a share with three digits, however small, such as ``0.0136 %``."""
    return f"{100 * share:.3g} %" if share < 10 else f"{100 * share:,.0f} %"
