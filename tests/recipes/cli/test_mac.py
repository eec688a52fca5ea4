"""On a Mac, demos run on the CPU unless its GPU is asked for."""

import pytest
import torch

from recipes.cli.arguments import Arguments
from recipes.cli.parser import RecipeCLI
from recipes.cli.presets import announce_demo, demo_preset
from recipes.unet3d import BENCHMARK


@pytest.fixture(autouse=True)
def _mac(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


@pytest.mark.parametrize(
    ("flags", "accelerator"),
    [
        ([], "cpu"),
        (["--trainer.accelerator", "mps"], "mps"),
        (["--data.root", "data"], "auto"),
    ],
)
def test_the_accelerator_that_is_used(flags, accelerator, capsys):
    arguments = Arguments(flags).with_config(demo_preset(BENCHMARK))
    cli = RecipeCLI(BENCHMARK, "fit", arguments, build=False)
    assert cli.config.trainer.accelerator == accelerator
    announce_demo(BENCHMARK, "fit", cli.arguments, spares_mac=cli.spares_mac)
    said = "--trainer.accelerator mps uses this Mac's GPU" in capsys.readouterr().out
    assert said is (accelerator == "cpu")


def test_elsewhere_nothing_changes(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    cli = RecipeCLI(BENCHMARK, "fit", ["--config", str(demo_preset(BENCHMARK))], build=False)
    assert cli.config.trainer.accelerator == "auto"
    assert not cli.spares_mac
