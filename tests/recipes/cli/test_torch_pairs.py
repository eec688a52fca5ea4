"""Versions that do not load together are named before an import dies."""

import importlib
from importlib import metadata
from pathlib import Path

import pytest
import torchaudio

from recipes.cli import main
from recipes.cli.torch_pairs import check_pairs

RECIPES = sorted((Path(__file__).parents[3] / "recipes").glob("[a-z]*.py"))
COMMANDS = [*main.COMMANDS]


@pytest.fixture
def installed(monkeypatch):
    """Make importlib report other versions than are installed."""
    real, versions = metadata.version, {}
    monkeypatch.setattr(metadata, "version", lambda name: versions.get(name) or real(name))
    return versions


@pytest.mark.parametrize(
    ("torch", "package", "version", "right"),
    [
        ("2.11.0", "torchaudio", "2.11.0", True),
        ("2.11.0+cpu", "torchaudio", "2.11.0+cpu", True),
        ("2.11.0", "torchaudio", "2.11.1", False),
        ("2.14.1", "torchaudio", "2.11.1", True),
        ("2.14.1", "torchaudio", "2.11.0", False),
        ("2.14.1", "torchvision", "0.29.1", True),
        ("2.13.0", "torchvision", "0.28.0", True),
        ("2.14.1", "torchvision", "0.26.0", False),
        ("2.11.0", "torchvision", "0.29.1", False),
        ("2.11.0", "torchvision", "0.2", False),
        ("3.0.0", "torchaudio", "9.9", True),  # not known, so not refused
    ],
)
def test_pairs(torch, package, version, right, installed):
    installed.update({"torch": torch, package: version})
    if right:
        check_pairs([package])
        return
    with pytest.raises(ValueError, match="does not load together with torch") as caught:
        check_pairs([package])
    assert package in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_installed_pair_passes_and_loads():
    check_pairs(["torchaudio", "torchvision"])
    assert torchaudio.__version__.startswith("2.11.")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_rnnt_names_a_wrong_pair_in_one_line(command, installed, capsys):
    installed.update({"torch": "2.11.0", "torchaudio": "2.11.1"})
    sheet = importlib.import_module("recipes.rnnt").BENCHMARK
    assert main.run(sheet, [command]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "torchaudio 2.11.1 does not load together with torch 2.11.0; run pip install" in line
    assert "'torchaudio==2.11.0'" in line


def test_recipes_that_need_such_a_package_say_so():
    """By their sources: an import of it anywhere in the benchmark's own directories."""
    for path in RECIPES:
        sheet = importlib.import_module(f"recipes.{path.stem}").BENCHMARK
        own = [Path(p.replace(".", "/")) for p in (sheet.module, sheet.datamodule)]
        folders = [path.parents[1] / each.parent for each in own]
        folders += [path.parents[1] / "modules" / "detection" / path.stem]
        text = "".join(f.read_text() for folder in folders for f in folder.glob("**/*.py"))
        for package in ("torchaudio", "torchvision"):
            imported = f"from {package}" in text or f"import {package}" in text
            assert imported == (package in sheet.built_for_torch), (path.stem, package)
