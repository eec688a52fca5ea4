"""Every command in README, docs and recipe docstrings parses against the real command lines."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from recipes._cli import COMMANDS
from recipes._parser import RecipeCLI

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "recipes").glob("[a-z]*.py"))
RECIPE = re.compile(r"python recipes/(\w+)\.py ([^\n`]+)")
SCORING = re.compile(r"python -m scoring ([^\n`]+)")
# Stands for a network of the reader's own.
PLACEHOLDERS = {"my.Net": "torch.nn.Identity"}


def words(text):
    """Arguments of a command, without the comment or description after it."""
    text = re.sub(r"\[(--[^\]]*)\]", r"\1", text)  # optional flags are parsed like the others
    text = re.split(r"\s{2,}| #|\)", text.strip())[0].rstrip(".;,")
    return [PLACEHOLDERS.get(word, word) for word in shlex.split(text)]


def joined(text):
    """Commands over several lines as one line each."""
    return re.sub(r"\s*\\+\n\s*", " ", text)


def found(pattern):
    return [
        pytest.param(*match.groups(), id=f"{page.name}-{number}")
        for page in PAGES
        for number, match in enumerate(pattern.finditer(joined(page.read_text())))
    ]


def test_pages_hold_commands():
    assert len(found(RECIPE)) > 10
    assert len(found(SCORING)) >= 5


@pytest.mark.parametrize(("stem", "text"), found(RECIPE))
def test_recipe_command_parses(stem, text, monkeypatch):
    monkeypatch.chdir(ROOT)
    benchmark = importlib.import_module(f"recipes.{stem}").BENCHMARK
    command, *args = words(text)
    assert command in {*COMMANDS, *benchmark.commands}
    if command in ("prepare", "doctor"):
        parser = importlib.import_module("jsonargparse").ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(benchmark.datamodule, "data")
        parser.parse_args(args)
    elif command in COMMANDS:
        RecipeCLI(benchmark, command, args, build=False)


@pytest.mark.parametrize("text", found(SCORING))
def test_scoring_command_parses(text):
    from scoring.cli import parser

    args = words(text)
    parsed = parser().parse_args(args[: args.index("--")] if "--" in args else args)
    assert parsed is not None


def test_readme_begins_with_what_a_newcomer_needs():
    top = "\n".join((ROOT / "README.md").read_text().splitlines()[:25])
    assert "pip install -e . && python recipes/unet3d.py fit" in top
    assert "pip install -e '.[test]' && pytest" in top
    for path in (ROOT / "recipes").glob("[a-z]*.py"):
        assert f"`{path.stem}`" in top, f"README's table lacks {path.stem}"
