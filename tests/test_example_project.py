"""examples/my_lab: a network kept outside this repository, by the commands of its own README."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.cli.parser import RecipeCLI
from recipes.unet3d import BENCHMARK

ROOT = Path(__file__).parents[1]
DEMO = str(ROOT / "recipes/presets/unet3d/demo.yaml")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A copy of the project somewhere else, as the current folder."""
    folder = tmp_path / "elsewhere"
    shutil.copytree(ROOT / "examples/my_lab", folder)
    monkeypatch.chdir(folder)
    return folder


def commands(readme):
    (block,) = re.findall(r"```\n(.*?)```", readme.read_text(), re.DOTALL)
    return block


def test_preset_gives_an_open_run_whose_net_fits(project, monkeypatch):
    monkeypatch.syspath_prepend(project)
    cli = RecipeCLI(BENCHMARK, "fit", ["--config", DEMO, "--config", "preset.yaml"])
    assert type(cli.model.net).__name__ == "HalfResolutionNet"
    assert cli.model.learning_rate == 0.2  # the demo's, which the preset leaves alone
    cli.model.check_net()
    real = ["--config", "preset.yaml", "--data.root", str(project)]
    assert RecipeCLI(BENCHMARK, "fit", real).division == "open"


@pytest.mark.demo
def test_readme_commands_run_outside_of_this_repository(project, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "finishline").symlink_to(ROOT)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"HOME": str(home), "PATH": path, "COLUMNS": "80"}
    done = subprocess.run(
        ["bash", "-ec", commands(project / "README.md")],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("target reached") == 3
    board = done.stdout.partition("networks (demo data)")[2]
    for name in ("HalfResolutionNet #1", "HalfResolutionNet #2", "UNet3D (reference)"):
        assert re.search(rf"^ {re.escape(name)} +1/1 ", board, re.MULTILINE), done.stdout
