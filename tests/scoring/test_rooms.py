"""The directories of scoring import each other one way."""

import ast
from pathlib import Path

SCORING = Path(__file__).parents[2] / "scoring"
# Each may import itself and those before it.
ROOMS = ("runs", "rules", "official", "published", "drawing", "commands")


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("scoring."):
            yield node.module.split(".")[1]


def test_each_room_imports_only_the_rooms_before_it():
    for number, room in enumerate(ROOMS):
        files = sorted((SCORING / room).rglob("*.py"))
        assert len(files) > 1
        for path in files:
            assert set(imported_rooms(path)) <= set(ROOMS[: number + 1]), path


def test_the_packages_of_commands_and_rules_are_empty():
    """A name re-exported there would import the room's files in a circle."""
    for room in sorted(set(ROOMS) - {"published"}):
        assert (SCORING / room / "__init__.py").read_text() == "", room
