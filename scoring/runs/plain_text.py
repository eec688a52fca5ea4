"""Text out of foreign files: control characters, which can steer a terminal, become visible."""

from __future__ import annotations

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
