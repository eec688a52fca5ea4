"""Measure variants in turn, each with its numeric gate."""

from __future__ import annotations

import time
from collections.abc import Callable
from textwrap import shorten
from typing import Any

import lightning as L

from callbacks.live_line import LIVE
from recipes.speed.flags import SpeedCLI
from recipes.speed.gate import FULL, REDUCED, Gate
from recipes.speed.loops import milliseconds, plain_training, synchronize, weights_held
from recipes.speed.memory import GIB, forget_peak, peak_memory
from recipes.speed.report import plain
from recipes.speed.variants import Settings, Variant, summary

MOST_CHARACTERS = 200  # torch lists dozens of backends in a sentence
COLUMNS = "variant", "samples/s", "ms/step", "loss error", "gradient error", "right"


def compare_variants(
    cli: SpeedCLI,
    trainer: L.Trainer,
    batches: list[Any],
    steps: int,
    rounds: int,
    note: Callable[[list[dict[str, Any]]], None],
) -> list[dict[str, Any]]:
    """Check and time all variants; a failing one has its error in place of figures.

    Args:
        cli: Module, data module and variants.
        trainer: That of a finished Lightning round.
        batches: Batches on the CPU.
        steps: Optimizer steps per round.
        rounds: Rounds in which all variants take turns.
        note: Called with what is known so far, as compilation may take longer than a user waits.

    Returns:
        Per variant ``name``, ``samples_per_second``, ``ms_per_step_median``, ``loss_error``,
        ``gradient_error``, ``tolerance`` (of both), ``right`` (null where the network amplifies
        rounding too much to tell), ``peak_memory_gib`` and ``error``.
    """
    all_settings = [Settings(cli, trainer, variant) for variant in cli.variants]
    LIVE.show("computing the reference of the variants")
    gate = Gate(cli, trainer, batches, all_settings[0])
    rows: list[dict[str, Any]] = []
    for settings in all_settings:
        LIVE.show(f"checking variant {settings.variant.name}")
        rows.append(_checked(gate, settings, cli))
        note(rows)
    gate.restart()
    times: list[list[float]] = [[] for _ in rows]
    with weights_held(cli.model):
        for number in range(rounds):
            for settings, row, spent in zip(all_settings, rows, times, strict=True):
                if row["error"] is not None:
                    continue
                LIVE.show(f"measuring variant {row['name']}, round {number + 1} of {rounds}")
                try:
                    spent += _round(cli, settings, batches, steps, row)
                except Exception as error:
                    row.update(error=_line(error), samples_per_second=None, ms_per_step_median=None)
                else:
                    row.update(summary(spent, cli.datamodule.batch_size))
                note(rows)
    gate.restart()
    return rows


def _checked(gate: Gate, settings: Settings, cli: SpeedCLI) -> dict[str, Any]:
    variant: Variant = settings.variant
    tolerance = REDUCED if variant.reduced(cli) else FULL
    row: dict[str, Any] = {
        "name": variant.name, "samples_per_second": None, "ms_per_step_median": None,
        "loss_error": None, "gradient_error": None, "tolerance": list(tolerance),
        "right": False, "peak_memory_gib": None, "error": None,
    }  # fmt: skip
    try:
        errors = gate.errors(settings)
        right = gate.right(errors, tolerance)
    except Exception as error:  # a compiler that is missing must not end the others
        return row | {"error": _line(error)}
    return row | {
        "loss_error": errors.loss,
        "gradient_error": errors.gradient,
        "right": right,
    }


def _round(
    cli: SpeedCLI, settings: Settings, batches: list[Any], steps: int, row: dict[str, Any]
) -> list[float]:
    """Train some steps; return the milliseconds of those that count."""
    device = settings.trainer.strategy.root_device
    forget_peak()
    moments = []
    with (
        settings.applied(),
        plain_training(cli, settings.trainer, settings.autocast) as (optimizer, forward),
    ):
        for index in range(steps):
            forward(batches[index % len(batches)], index).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            synchronize()
            moments.append(time.perf_counter())
    row["peak_memory_gib"] = max(row["peak_memory_gib"] or 0.0, peak_memory(device) / GIB)
    return milliseconds(moments)


def _line(error: BaseException) -> str:
    text = shorten(str(error).strip().partition("\n")[0], MOST_CHARACTERS)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines of the table."""
    cells = [COLUMNS, *(_cells(row) for row in rows)]
    widths = [max(len(line[n]) for line in cells) for n in range(len(COLUMNS))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in cells]
    return [line.rstrip() for line in lines]


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    rates = (row["samples_per_second"], row["ms_per_step_median"])
    errors = (row["loss_error"], row["gradient_error"])
    texts = ["-" if rate is None else plain(rate) for rate in rates]
    texts += ["-" if error is None else f"{error:.2e}" for error in errors]
    loss, gradient = row["tolerance"]
    verdicts = {True: "yes", None: "unclear: rounding weights to bf16 changes as much"}
    verdict = verdicts.get(row["right"], f"NO (allowed {loss:g}, {gradient:g})")
    return row["name"], *texts, f"failed: {row['error']}" if row["error"] else verdict
