"""Lines that fit the terminal; a pipe or a file gets them unbroken, for grep and scripts."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from typing import TextIO

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def visible(text: str) -> str:
    """Make control characters visible; a command to be pasted is not wrapped besides."""
    return CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def wrap_to_terminal(text: str, *, indent: int = 0, stream: TextIO | None = None) -> str:
    """Wrap lines at the terminal's width, never inside a word; a pipe gets them unbroken.

    Control characters out of file names or data, which could steer a terminal, become visible.
    """
    text = visible(text)
    if not (sys.stdout if stream is None else stream).isatty():
        return text
    wrapper = textwrap.TextWrapper(
        shutil.get_terminal_size().columns - 1,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(wrapper.fill(line) for line in text.splitlines())
