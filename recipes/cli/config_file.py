"""Configuration files: read once before the parser, so that a bad one is named."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from recipes.cli.presets import RECIPES, rank
from recipes.cli.usage import UsageError

MOST_VALUES = 100_000
OURS = ("recipes.", "modules.", "datamodules.", "callbacks.")


def read_config(path: str) -> dict[str, Any]:
    """Read the settings in a YAML file.

    Args:
        path: Value of ``--config``.

    Returns:
        Group or flag -> settings.

    Raises:
        UsageError: If the file cannot be read, is no UTF-8 text, no YAML or holds no settings.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UsageError(f"--config {path}: not UTF-8 text; save it as UTF-8") from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UsageError(f"--config {path}: {reason}") from error
    if content is None:
        raise UsageError(f"--config {path}: empty; leave the flag out for the closed reference")
    if not isinstance(content, dict):
        raise UsageError(f"--config {path}: holds no settings, such as 'model: {{momentum: 0.9}}'")
    if _has_more_than(MOST_VALUES, content):
        raise UsageError(f"--config {path}: its aliases unfold to more than {MOST_VALUES:,} values")
    return content


def _has_more_than(most: int, content: Any) -> bool:
    """Count values and containers, up to a limit: a few nested aliases make billions of them."""
    rest, number = [content], 0
    while rest and number <= most:
        value, number = rest.pop(), number + 1
        if isinstance(value, Mapping):
            rest += value.values()
        elif isinstance(value, list):
            rest += value
    return number > most


def tell_foreign_code(path: str, content: Mapping[str, Any]) -> None:
    """Say which code a configuration imports, if another user has written the file."""
    file = Path(path)
    names = sorted(set(_imported(content)))
    if not names or RECIPES in file.resolve().parents or file.stat().st_uid == os.getuid():
        return
    if rank() == 0:
        text = f"Note: {path} belongs to another user and imports code: {', '.join(names)}"
        print(text, file=sys.stderr, flush=True)


def _imported(content: Any) -> Iterator[str]:
    """Yield the dotted paths of classes outside of our own packages."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            named = key in ("class_path", "net") and isinstance(value, str)
            if named and not value.startswith(OURS):
                yield value
            yield from _imported(value)
    elif isinstance(content, list):
        for item in content:
            yield from _imported(item)
