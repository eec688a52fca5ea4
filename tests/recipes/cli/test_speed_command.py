"""The speed command: its figures are there, and Lightning's overhead stays small."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from recipes.cli import speed as speed_command
from recipes.cli.main import run
from recipes.cli.parser import RecipeCLI
from recipes.unet3d import BENCHMARK
from tests.recipes.test_unet3d import CPU, DEMO

STEMS = sorted(path.stem for path in (Path(__file__).parents[3] / "recipes").glob("[a-z]*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("stem", STEMS)
def test_every_recipe_is_measured(stem, monkeypatch, capsys):
    monkeypatch.setattr(speed_command, "ROUNDS", 1)
    benchmark = importlib.import_module(f"recipes.{stem}").BENCHMARK
    assert run(benchmark, ["speed", "--steps", "5", "--trainer.accelerator", "cpu"]) == 0
    rows = (line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    figures = {row[0]: row[1] for row in rows if len(row) == 2}
    assert float(figures["samples/s"]) > 0
    assert float(figures["Lightning / plain loop"]) > 0
    played = [name for name in figures if name.startswith("self-play")]
    assert len(played) == (stem == "minigo")
    assert all(float(figures[name]) > 0 for name in played)


def test_batches_are_served_as_the_source_gave_them():
    """An array of Mask R-CNN's outlines that became a tensor was slower to draw."""
    batch = {"polygons": [[np.zeros((4, 2))]]}
    source = SimpleNamespace(batch_size=1, synthetic_batch=None)
    served = list(speed_command.Replay(source, [batch], 3).train_dataloader())
    assert [one is batch for one in served] == [True] * 3


@pytest.mark.speed
@pytest.mark.slow
def test_lightning_step_costs_at_most_3_percent_more_than_a_plain_loop():
    ratios = []
    for _ in range(3):  # other work on the machine can only make a ratio worse by chance
        cli = RecipeCLI(BENCHMARK, "speed", [*DEMO, *CPU])
        figures = speed_command.measure(BENCHMARK, cli, steps=14)
        ratios.append(figures["Lightning / plain loop"])
        if ratios[-1] <= 1.03:
            break
    assert min(ratios) <= 1.03, ratios
    assert figures["samples/s"] > 0
    assert figures["ms/step p90"] >= figures["ms/step median"] > 0
    assert figures["model FLOP/s"] > 1e8
    assert figures["data wait share"] < 0.02
