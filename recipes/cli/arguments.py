"""The words after a recipe's command, split once for everyone who looks before the parser does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

SHORT = {"-c": "--config", "-h": "--help"}
NO_VALUE = ("--debug", "--help", "--help-all", "--print_config", "--synthetic", "--profile")


class Option(NamedTuple):
    """One option as it was typed; ``name`` is its long spelling, ``words`` are what it takes up."""

    name: str
    value: str | None
    words: tuple[str, ...]


class Arguments:
    """Arguments of one command.

    Args:
        words: Arguments after the command, e.g. ``["--data.root", "DIR", "-c", "FILE"]``. Options
            are read as argparse reads them: ``--name VALUE``, ``--name=VALUE``, ``-c VALUE``,
            ``-c=VALUE`` and ``-cVALUE``.

    Attributes:
        options: Every option as it was typed, in order; other words have the name ``""``.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self.words = tuple(words)
        self.options = tuple(_split(self.words))

    def __contains__(self, name: str) -> bool:
        return any(option.name == name for option in self.options)

    def values(self, name: str) -> list[str]:
        """Every value given for an option, in order."""
        return [o.value for o in self.options if o.name == name and o.value is not None]

    def value(self, name: str) -> str | None:
        """The last value given for an option, which wins; ``None`` where there is none."""
        return next(reversed(self.values(name)), None)

    @property
    def inputs(self) -> list[str]:
        """The words that belong to no option."""
        return [word for o in self.options if not o.name for word in o.words]

    def without(self, name: str) -> Arguments:
        """The other arguments; without ``""`` all options."""
        return Arguments(w for o in self.options if o.name != name for w in o.words)

    def with_config(self, path: Path | str) -> Arguments:
        """Put a configuration file first, so that everything given on the command line wins."""
        return Arguments(("--config", str(path), *self.words))


def _split(words: tuple[str, ...]) -> Iterator[Option]:
    """Yield each option with its value; a word that belongs to none has the name ``""``."""
    position = 0
    while position < len(words):
        word, following = words[position], words[position + 1 : position + 2]
        taken = 1
        if not _is_option(word):
            yield Option("", None, (word,))
        else:
            name, equals, text = word.partition("=")
            if not word.startswith("--") and len(name) > 2:  # -cVALUE
                name, equals, text = word[:2], "=", word[2:]
            name = SHORT.get(name, name)
            value = text if equals else None
            if not equals and name not in NO_VALUE and following and not _is_option(following[0]):
                value, taken = following[0], 2
            yield Option(name, value, words[position : position + taken])
        position += taken


def _is_option(word: str) -> bool:
    return word.startswith("--") or word[:2] in SHORT
