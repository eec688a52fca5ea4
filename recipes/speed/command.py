"""The ``speed`` command: time the training step in Lightning, in a plain loop and in variants."""

from __future__ import annotations

import statistics
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L

from callbacks.live_line import LIVE
from callbacks.run_record import git_revision
from recipes.cli.arguments import Arguments
from recipes.cli.benchmark import Benchmark
from recipes.cli.doing import doing
from recipes.cli.noise import quiet
from recipes.cli.presets import announce_demo
from recipes.speed import comparison, operators
from recipes.speed.batch_size import fit_batch_size
from recipes.speed.evaluation import measure_evaluation
from recipes.speed.figures import device_name, step_figures
from recipes.speed.flags import SpeedCLI
from recipes.speed.limits import measure_limits
from recipes.speed.loops import (
    BATCHES,
    StepTimes,
    lightning_round,
    milliseconds,
    pinned,
    plain_round,
    read_batches,
    weights_held,
)
from recipes.speed.memory import forget_peak
from recipes.speed.published import beside_published
from recipes.speed.report import Report, show, show_lines

ROUNDS = 3  # Lightning and the plain loop take turns, so that a busy machine slows both alike


class Sources(NamedTuple):
    """Batches to train on, and where they come from."""

    batches: list[Any]
    wait: float | None
    """Seconds that the loader takes for one; None without a loader."""
    share: float
    """Size of a batch relative to the flags'."""


def speed(benchmark: Benchmark, arguments: Arguments) -> int:
    """Measure the training step; return 0."""
    quiet()
    cli = SpeedCLI(benchmark, arguments)
    if cli.demo:
        announce_demo(benchmark, "speed", cli.arguments, spares_mac=cli.spares_mac)
    measure(benchmark, cli)
    return 0


def measure(benchmark: Benchmark, cli: SpeedCLI) -> dict[str, Any]:
    """Measure, print and save what the flags ask for.

    Args:
        benchmark: The data sheet.
        cli: Module, data module and flags.

    Returns:
        The content of the JSON file; ``Report.add`` lists its keys.
    """
    config = cli.config
    command = ["speed", *cli.arguments.words]
    facts = {"benchmark": benchmark.name, "command": command, "revision": git_revision()}
    report = Report(config.json, {**facts, "synthetic": config.synthetic})
    with weights_held(cli.model) if config.synthetic else nullcontext():
        sources = _sources(benchmark, cli)
        report.add(scaled=cli.scaled)
        show_lines([f"Scaled to this machine: {line}" for line in cli.scaled])
        trainer = _measure_steps(benchmark, cli, sources, report)
        _measure_evaluation(cli, trainer, sources.share, report)
        _measure_own_work(cli, report)
        _compare_with_limits(benchmark, cli, trainer, report)
        if config.profile:
            _profile(benchmark, cli, trainer, sources, report)
    if cli.variants:
        _compare_variants(cli, trainer, sources, report)
    return report.content


def _sources(benchmark: Benchmark, cli: SpeedCLI) -> Sources:
    data: Any = cli.datamodule
    if not cli.config.synthetic:
        with doing("preparing the data"):
            data.prepare_data()
        return Sources(*read_batches(data, cli.config.steps), 1.0)
    LIVE.show("scaling the batch to this machine")
    closed = data.batch_size
    cli.scaled += fit_batch_size(benchmark, cli)
    number = min(BATCHES, cli.config.steps)
    batches = pinned([data.synthetic_batch() for _ in range(number)])
    return Sources(batches, None, data.batch_size / closed)


def _measure_steps(
    benchmark: Benchmark, cli: SpeedCLI, sources: Sources, report: Report
) -> L.Trainer:
    """Time Lightning and the plain loop in turn; return the last trainer."""
    steps, batches = cli.config.steps, sources.batches
    lightning_ms: list[float] = []
    plain_ms: list[float] = []
    number, trainer = 0, None
    forget_peak()  # of the search for a batch size
    while trainer is None or number < _rounds(cli, lightning_ms):
        number += 1
        LIVE.show(f"measuring Lightning, round {number}")
        times = StepTimes()
        trainer = lightning_round(benchmark, cli, batches, steps, times)
        lightning_ms += milliseconds(times.moments)
        LIVE.show(f"measuring a plain loop, round {number}")
        plain_ms += milliseconds(plain_round(cli, trainer, batches, steps))
        figures = step_figures(cli, trainer, lightning_ms, plain_ms, sources.wait)
        device = device_name(trainer.strategy.root_device)
        precision = str(trainer.precision)
        report.add(device=device, precision=precision, figures=figures)
    show({"device": device, "precision": precision, **figures})
    return trainer


def _rounds(cli: SpeedCLI, step_ms: list[float]) -> int:
    """Return the number of rounds: one where even the smallest batch takes long."""
    slow = cli.config.synthetic and statistics.median(step_ms) > 1000 * cli.config.step_seconds
    return 1 if slow else ROUNDS


def _measure_evaluation(cli: SpeedCLI, trainer: L.Trainer, share: float, report: Report) -> None:
    """Time an evaluation where batches are synthetic."""
    if not cli.config.synthetic:
        report.add(evaluation=None)
        return
    LIVE.show("measuring the evaluation")
    evaluation = measure_evaluation(cli, trainer, share)
    report.add(evaluation=evaluation)
    show({f"evaluation ms/{evaluation['sample']}": evaluation["ms_per_sample"]})


def _measure_own_work(cli: SpeedCLI, report: Report) -> None:
    """Time work outside the steps, such as self-play, where the module has any."""
    own: Any = getattr(cli.model, "speed_figures", None)
    if callable(own):
        LIVE.show("measuring work outside the steps")
        figures: dict[str, Any] = own(cli.datamodule)
        report.add(own=figures)
        show(figures)


def _compare_with_limits(
    benchmark: Benchmark, cli: SpeedCLI, trainer: L.Trainer, report: Report
) -> None:
    """Set the rate of the benchmark's own sizes next to the best published one and the limit."""
    if cli.demo:
        return
    LIVE.show("measuring the device's limits")
    limits = measure_limits(trainer.strategy.root_device)
    rates = {**report.content["figures"], **report.content.get("own", {})}
    parts, lines = beside_published(benchmark.name, report.content["device"], rates, limits)
    report.add(**parts)
    if cli.division != "closed":
        lines.append("these are the closed benchmark's; this run has open division settings")
    show_lines(lines)


def _profile(
    benchmark: Benchmark, cli: SpeedCLI, trainer: L.Trainer, sources: Sources, report: Report
) -> None:
    """Show the costliest operators; the trace lies next to the JSON file or in this directory."""
    LIVE.show("tracing a step")
    json_file: Path | None = cli.config.json
    folder = Path() if json_file is None else json_file.parent
    trace = folder / f"trace-{benchmark.name if json_file is None else json_file.stem}.json"
    rows = operators.profile_steps(cli, trainer, sources.batches, trace)
    report.add(operators=rows, trace=str(trace))
    show_lines([*operators.table(rows), f"Chrome trace: {trace} (ui.perfetto.dev opens it)"])


def _compare_variants(cli: SpeedCLI, trainer: L.Trainer, sources: Sources, report: Report) -> None:
    slow = report.content["figures"]["plain_ms_per_step_median"]
    rounds = _rounds(cli, [slow])
    rows = comparison.compare_variants(
        cli,
        trainer,
        sources.batches,
        cli.config.steps,
        rounds,
        note=lambda known: report.add(variants=known),
    )
    show_lines(comparison.table(rows))
