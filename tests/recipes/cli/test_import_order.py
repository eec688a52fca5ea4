"""The command line's files import one way, also inside functions."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

CLI = Path(__file__).parents[3] / "recipes" / "cli"


def imported(path):
    """Names of the command line's files that a file imports anywhere or names by dotted path."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "recipes.cli":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("recipes.cli."):
            yield node.module.rpartition(".")[2]
        elif isinstance(node, ast.Constant) and str(node.value).startswith("recipes.cli."):
            yield node.value.rpartition(".")[2]


def test_there_is_no_circle():
    files = {path.stem: set(imported(path)) for path in CLI.glob("*.py")}
    order = list(TopologicalSorter(files).static_order())  # raises CycleError
    assert len(files) > 15
    assert set(order) == set(files)
    assert order.index("arguments") < order.index("parser") < order.index("run")
    assert order.index("run") < order.index("train") < order.index("main")
