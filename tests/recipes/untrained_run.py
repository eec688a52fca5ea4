"""A run's directory without a run: a demo's network as it was built, saved as its checkpoint."""

import importlib
import json
from pathlib import Path

import torch

from recipes.cli.parser import RecipeCLI
from recipes.cli.presets import demo_preset
from recipes.cli.run import config_text


def benchmark_of(stem):
    return importlib.import_module(f"recipes.{stem}").BENCHMARK


def untrained_run(folder: Path, stem: str, *flags: str) -> Path:
    """Write ``config.yaml``, ``run.json`` and ``checkpoints/last.ckpt`` of a demo's first step."""
    benchmark = benchmark_of(stem)
    torch.manual_seed(0)
    cli = RecipeCLI(benchmark, "fit", ["--config", str(demo_preset(benchmark)), *flags])
    getattr(cli.model, "build", lambda: None)()  # networks of language models are built late
    (folder / "checkpoints").mkdir(parents=True)
    content = {"state_dict": cli.model.state_dict(), "finishline_benchmark": stem}
    torch.save(content, folder / "checkpoints" / "last.ckpt")
    (folder / "config.yaml").write_text(config_text(cli))
    (folder / "run.json").write_text(json.dumps({"benchmark": stem}))
    return folder
