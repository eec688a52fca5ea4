"""Every notebook runs from top to bottom, and what is kept of it is small and names no machine."""

import importlib
import os
import re
import shlex
import sys
from pathlib import Path

import nbformat
import pytest
from jsonargparse import ArgumentError, ArgumentParser
from nbclient import NotebookClient

from recipes.cli.main import COMMANDS
from recipes.cli.parser import RecipeCLI
from scoring.cli import parser

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
QUICK = {"04_real_data"}  # trains nothing
RECIPE = re.compile(r"python \.\./recipes/(\w+)\.py ([^\n`|]+)")
SCORING = re.compile(r"python -m scoring ([^\n`|]+)")
MACHINE_PATH = re.compile(r"/(home|root|tmp|work|Users|opt)/")


def read(path):
    return nbformat.read(path, as_version=4)


def found(pattern):
    return [
        pytest.param(*match.groups(), id=f"{path.stem}-{number}")
        for path in NOTEBOOKS
        for number, match in enumerate(
            match for cell in read(path).cells for match in pattern.finditer(cell.source)
        )
    ]


def words(text):
    return shlex.split(re.split(r" 2>&1| >|\"$", text.strip())[0])


def test_there_are_notebooks_with_commands():
    assert len(NOTEBOOKS) >= 4
    assert len(found(RECIPE)) > 8
    assert len(found(SCORING)) >= 5


@pytest.mark.parametrize(("stem", "text"), found(RECIPE))
def test_recipe_command_parses(stem, text, monkeypatch):
    monkeypatch.chdir(ROOT / "notebooks")
    benchmark = importlib.import_module(f"recipes.{stem}").BENCHMARK
    command, *args = words(text)
    if "--model.learning_rat" in args:  # the notebook shows what becomes of a wrong flag
        with pytest.raises(ArgumentError, match="did you mean --model.learning_rate"):
            RecipeCLI(benchmark, command, args, build=False)
    elif command in ("prepare", "doctor"):
        arguments = ArgumentParser(exit_on_error=False)
        arguments.add_class_arguments(benchmark.datamodule_class(), "data")
        arguments.parse_args(args)
    else:
        assert command in COMMANDS
        args = [arg for arg in args if arg != "--print_config"]
        RecipeCLI(benchmark, command, args, build=False)


@pytest.mark.parametrize("text", found(SCORING))
def test_scoring_command_parses(text):
    assert parser().parse_args(words(text)).command


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kept_outputs_are_small_and_name_no_machine(path):
    assert path.stat().st_size < 300_000
    for cell in read(path).cells:
        assert len(cell.source.splitlines()) <= 20
        if cell.cell_type == "code":
            assert cell.execution_count, f"not executed: {cell.source[:60]}"
            assert all(output.output_type != "error" for output in cell.outputs)
            texts = [o.text for o in cell.outputs if o.output_type == "stream"]
            assert not any(MACHINE_PATH.search(text) for text in texts)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(p, id=p.stem, marks=pytest.mark.slow if p.stem in QUICK else pytest.mark.demo)
        for p in NOTEBOOKS
    ],
)
def test_notebook_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    folder = tmp_path / "notebooks"  # a copy: a run leaves its directories next to the notebook
    folder.mkdir()
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.delenv("MPLBACKEND")  # figures go into the notebook
    book = read(path)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(
        book, timeout=540, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert not [o.text for o in outputs if o.get("name") == "stderr"]
    kept = [o for cell in read(path).cells for o in cell.get("outputs", [])]
    assert [_figure(o) for o in outputs].count(True) == [_figure(o) for o in kept].count(True)


def _figure(output):
    return "image/png" in output.get("data", {})
