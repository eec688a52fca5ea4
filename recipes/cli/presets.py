"""Presets: where they are, and the demo's when neither data nor a configuration is named."""

from __future__ import annotations

import os
from pathlib import Path

from recipes.cli.arguments import Arguments
from recipes.cli.benchmark import Benchmark
from recipes.cli.screen import wrap_to_terminal

RECIPES = Path(__file__).resolve().parents[1]
PRESETS = RECIPES / "presets"
# One of these says what to run. `validate` needs a checkpoint, which brings its configuration.
NO_DEMO = (
    "--data.root", "--data.raw", "--data.shards", "--synthetic", "--config", "--ckpt_path",
    "--help", "--help-all", "--print_config",
)  # fmt: skip


def with_default_preset(benchmark: Benchmark, command: str, arguments: Arguments) -> Arguments:
    """Put the demo preset first where neither data nor a configuration is named."""
    named = {name for name in NO_DEMO if name in arguments}
    if arguments.value("--ckpt_path") == "auto":  # it may start anew
        named.discard("--ckpt_path")
    if command not in ("fit", "speed") or named:
        return arguments
    return arguments.with_config(demo_preset(benchmark))


def announce_demo(
    benchmark: Benchmark, command: str, arguments: Arguments, *, spares_mac: bool
) -> None:
    """Print on rank 0 that this is a demo, once nothing can be wrong with the settings."""
    text = "No --data.root: training on generated demo data."
    if arguments.value("--config") == str(demo_preset(benchmark)):
        real = f"python recipes/{benchmark.name}.py {command} --data.root DIR"
        text = f"Demo on generated data (real: {real})"
    if spares_mac:
        text += "\nThe demo runs on the CPU; --trainer.accelerator mps uses this Mac's GPU."
    if rank() == 0:
        print(wrap_to_terminal(text), flush=True)


def demo_preset(benchmark: Benchmark) -> Path:
    """Path of the demo preset: a YAML file with the differences from the closed reference."""
    return PRESETS / benchmark.name / "demo.yaml"


def rank() -> int:
    """Rank of this process as the launcher gives it, before torch is imported; 0 without one."""
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    given = next((os.environ[name] for name in names if name in os.environ), "0")
    return int(given) if given.isdigit() else 0  # a wrong one has its own error
