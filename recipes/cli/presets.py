"""Presets: where they are, and the demo's when neither data nor a configuration is named."""

from __future__ import annotations

import os
from pathlib import Path

from recipes.cli.benchmark import Benchmark
from recipes.cli.screen import fitted

RECIPES = Path(__file__).resolve().parents[1]
PRESETS = RECIPES / "presets"


def with_default_preset(benchmark: Benchmark, command: str, args: list[str]) -> list[str]:
    """Choose the demo when neither data nor a configuration was named.

    Args:
        benchmark: The data sheet.
        command: The command, for the line that says so.
        args: Arguments after the command.

    Returns:
        The arguments, with the demo preset in front where it applies. ``validate`` has no demo: it
        needs a checkpoint, which brings its run's configuration along.
    """
    if command == "validate":
        return args
    names = {arg.partition("=")[0] for arg in args}
    if names & {"--data.root", "--config", "-c", "--help", "-h", "--ckpt_path", "--print_config"}:
        return args
    if rank() == 0:
        real = f"python recipes/{benchmark.name}.py {command} --data.root DIR"
        print(fitted(f"Demo on generated data (real: {real})"), flush=True)
    return ["--config", str(demo_preset(benchmark)), *args]


def demo_preset(benchmark: Benchmark) -> Path:
    """Path of the benchmark's demo preset.

    Args:
        benchmark: The data sheet.

    Returns:
        A YAML file with the differences from the closed reference.
    """
    return PRESETS / benchmark.name / "demo.yaml"


def rank() -> int:
    """Rank of this process, before torch is imported.

    Returns:
        What the launcher (torchrun, Lightning or SLURM) says; 0 without one.
    """
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    return int(next((os.environ[name] for name in names if name in os.environ), 0))
