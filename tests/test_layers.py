"""Imports go one way, and the shape of the code stays within its bands."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"recipes", "modules", "datamodules", "callbacks", "scoring"}
ALLOWED = {
    "recipes": {"recipes", "modules", "datamodules", "callbacks"},
    "modules": {"modules"},
    "datamodules": {"datamodules"},
    "callbacks": {"callbacks"},
    "scoring": {"scoring"},
}
FILES = [path for package in sorted(PACKAGES) for path in sorted((ROOT / package).rglob("*.py"))]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


def test_every_package_has_files():
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == PACKAGES


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    relative = path.relative_to(ROOT)
    allowed = ALLOWED[relative.parts[0]]
    for name in imports(path):
        package = name.partition(".")[0]
        # Two exceptions: Mini Go's engine is the environment that the data comes out of, and the
        # warm-up and the checks of a network leave it as it was by the same lines of plain torch.
        go = relative.parts[:2] == ("modules", "minigo") and name.startswith(
            "datamodules.selfplay.go"
        )
        shared = relative.parts[0] == "modules" and name == "callbacks.preserve_state"
        permitted = package in allowed or go or shared
        assert package not in PACKAGES or permitted, f"{relative} imports {name}"
        pure = relative.parts[:2] in {("modules", "nets"), ("modules", "ops")}
        assert not (pure and package == "lightning"), f"{relative}: {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_longer_than_500_lines(path):
    assert len(path.read_text().splitlines()) <= 500


def test_no_recipe_bears_a_standard_library_name():
    stems = {path.stem for path in (ROOT / "recipes").glob("*.py")}
    assert not stems & set(sys.stdlib_module_names)


@pytest.mark.parametrize("folder", ["callbacks", "recipes/cli"])
def test_shared_code_names_no_benchmark(folder):
    recipes = {p.stem for p in (ROOT / "recipes").glob("[a-z]*.py")}
    shared = sorted((ROOT / folder).glob("*.py"))
    assert shared
    for path in shared:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in recipes, f"{path.name} names {node.value}"
