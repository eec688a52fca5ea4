"""Private attributes of the parser that have no public counterpart.

Checked with jsonargparse 4.53.0 on Python 3.11; tests/recipes/cli/test_jsonargparse_private.py
says which one is gone after an upgrade.
"""

from __future__ import annotations

from argparse import Action
from collections.abc import Iterator
from typing import Any

from jsonargparse import ArgumentParser


def long_flags(parser: ArgumentParser) -> list[str]:
    """Return all long flags of a parser, with their dashes."""
    return [name for a in parser._actions for name in a.option_strings if name.startswith("--")]


def groups(parser: ArgumentParser) -> Iterator[tuple[str, list[Action]]]:
    """Yield the title and the actions of every group of flags that has any."""
    for group in parser._action_groups:
        if group._group_actions:
            yield group.title or "", group._group_actions


def value_type(action: Action) -> Any:
    """Return the type of a flag's value, e.g. ``Path | None``."""
    return getattr(action, "_typehint", action.type)
