"""Text out of foreign files: control characters, which can steer a terminal, become visible."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain(value: Any) -> Any:
    """Return a text, or a value of JSON with all texts in it, with ``\\x1b`` for an escape.

    Args:
        value: What was read.

    Returns:
        The same without control characters but tab and line feed.
    """
    if isinstance(value, str):
        return CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", value)
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def short(value: Any, longest: int = 60) -> str:
    """Return a value of a log for a line of text: as JSON, cut where it is long.

    Args:
        value: Any JSON value.
        longest: Characters to keep.

    Returns:
        Such as ``'ssd'`` or ``{"a": 1}``.
    """
    try:
        text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    except (RecursionError, ValueError):
        text = f"a {type(value).__name__}"
    text = plain(text)
    return text if len(text) <= longest else f"{text[:longest]}..."


def say(text: str, file: Any = None) -> None:
    """Print one line: control characters, also those of file names, are shown and not obeyed.

    Args:
        text: The line.
        file: Stream; standard output by default.
    """
    print(plain(text).replace("\n", " "), file=file)
