"""The command line's checks and notes on streamed shards, ``--data.shards``."""

from __future__ import annotations

from typing import Any

from datamodules.common.stream.pattern import has_command, show
from recipes.cli.arguments import Arguments
from recipes.cli.usage import UsageError

FLAGS = ("shards", "val_shards")
UNORDERED = "streams samples in an order that depends on ranks and loader processes"


def check_commands(data: Any, arguments: Arguments) -> None:
    """Raise if a pattern would run a command that nobody typed.

    Args:
        data: The parsed section ``data``.
        arguments: The words of the command line.

    Raises:
        UsageError: If ``pipe:`` comes from a file of settings, a resumed run's too; one line.
    """
    for name in FLAGS:
        text = data.get(name)
        if has_command(text) and text not in arguments.values(f"--data.{name}"):
            raise UsageError(
                f"data.{name} in a file of settings is a command, {show(text)}: pipe: is run only "
                f"if typed; add --data.{name} 'pipe:COMMAND' to the command line, also to resume"
            )


def open_note(data: Any) -> str:
    """Return the line that says why a run is open; empty without shards.

    Args:
        data: The parsed section ``data``.

    Returns:
        One line.
    """
    if not data.get("shards"):
        return ""
    return f"Open division: --data.shards {show(data['shards'])} {UNORDERED}"
