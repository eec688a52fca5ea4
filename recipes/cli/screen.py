"""Lines that fit the terminal; a pipe or a file gets them whole, for grep and scripts."""

from __future__ import annotations

import shutil
import sys
import textwrap
from typing import TextIO


def fitted(text: str, *, indent: int = 0, stream: TextIO | None = None) -> str:
    """Break lines between words where a terminal is narrower.

    Args:
        text: One or more lines.
        indent: Blanks before every line after the first of each broken line.
        stream: Where the text will be printed; standard output by default.

    Returns:
        The text; unchanged where the stream is no terminal. A word (a path) is never broken.
    """
    if not (sys.stdout if stream is None else stream).isatty():
        return text
    wrapper = textwrap.TextWrapper(
        shutil.get_terminal_size().columns - 1,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(wrapper.fill(line) for line in text.splitlines())
