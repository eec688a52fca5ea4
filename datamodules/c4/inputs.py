"""Texts from outside the data set, to be continued."""

import os
from collections.abc import Callable

import torch
from torch import Tensor

from datamodules.common.inputs import input_text, text_name

WHAT = "a text file, or a text of several words in quotes"


def read_prompt(source: str, encode: Callable[[str], list[int] | None], longest: int) -> Tensor:
    """Read the text to continue as token ids.

    Args:
        source: A text file, or the text itself, which has a space in it.
        encode: Turns text into ids; None if there is no tokenizer.
        longest: Most tokens.

    Returns:
        int64 (1, S).

    Raises:
        OSError: If it is no file and has no space.
        ValueError: If it has no tokens or too many, or if there is no tokenizer.
    """
    ids = encode(_text_of(source).strip())
    if ids is None:
        raise ValueError("there is no tokenizer.json in the data's directory; put it there")
    if not 0 < len(ids) <= longest:
        raise ValueError(f"{text_name(source)}: {len(ids)} tokens, allowed are 1 to {longest:,}")
    return torch.tensor([ids])


def _text_of(source: str) -> str:
    typed = len(source.split()) > 1 and not os.path.exists(source)
    return source if typed else input_text(source, WHAT)


def describe_continuation(prompt: str, likeliest: str, drawn: str) -> str:
    """Return a text and its two continuations for a file."""
    return f"{prompt}\n\nlikeliest: {likeliest.strip()}\n\ndrawn: {drawn.strip()}\n"
