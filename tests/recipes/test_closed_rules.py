"""Every rule of every data sheet: the defaults keep it, and another value opens the run."""

import importlib
from functools import cache
from pathlib import Path

import pytest

from recipes.cli.division import violations
from recipes.cli.parser import RecipeCLI, flat

STEMS = sorted(p.stem for p in (Path(__file__).parents[2] / "recipes").glob("[a-z]*.py"))
RULES = [
    (stem, rule.key)
    for stem in STEMS
    for rule in importlib.import_module(f"recipes.{stem}").BENCHMARK.closed
]

# The rules leave it to the submitter when a run gives up.
FREE = ("bert", "evaluation.limit")


@cache
def sheet_and_defaults(stem):
    sheet = importlib.import_module(f"recipes.{stem}").BENCHMARK
    return sheet, flat(RecipeCLI(sheet, "fit", [], build=False).parser.get_defaults())


def others(value):
    """Values of the same kind that no rule should allow all of."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [-abs(value) - 1, value * 1.37 + 0.1, value * 5 + 3]
    if isinstance(value, list | tuple):
        return [[other for x in value for other in others(x)[:1]] or [7], [*value, *value, 3]]
    return [f"not {value}"]


def test_rules_were_found():
    assert {stem for stem, _ in RULES} == set(STEMS)


@pytest.mark.parametrize("stem", STEMS)
def test_the_defaults_keep_every_rule(stem):
    sheet, defaults = sheet_and_defaults(stem)
    assert violations(sheet, defaults, defaults, demo=False) == []


@pytest.mark.parametrize(("stem", "key"), RULES)
def test_another_value_opens_the_run(stem, key):
    sheet, defaults = sheet_and_defaults(stem)
    assert key in defaults
    lines = [
        violations(sheet, {**defaults, key: other}, defaults, demo=False)
        for other in others(defaults[key])
    ]
    opened = any(line.startswith(f"{key} is ") for found in lines for line in found)
    assert opened == ((stem, key) != FREE)
