"""The speed command: its figures are there, and Lightning's overhead stays small."""

import pytest

from recipes import _speed
from recipes._parser import RecipeCLI
from recipes.unet3d import BENCHMARK
from tests.recipes.test_unet3d import CPU, DEMO


@pytest.mark.speed
@pytest.mark.slow
def test_lightning_step_costs_at_most_3_percent_more_than_a_plain_loop():
    ratios = []
    for _ in range(3):  # other work on the machine can only make a ratio worse by chance
        cli = RecipeCLI(BENCHMARK, "speed", [*DEMO, *CPU])
        figures = _speed.measure(BENCHMARK, cli, steps=14)
        ratios.append(figures["Lightning / plain loop"])
        if ratios[-1] <= 1.03:
            break
    assert min(ratios) <= 1.03, ratios
    assert figures["samples/s"] > 0
    assert figures["ms/step p90"] >= figures["ms/step median"] > 0
    assert figures["model FLOP/s"] > 1e8
    assert figures["data wait share"] < 0.02
