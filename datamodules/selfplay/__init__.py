"""Self-play games of Go: the window of examples that Mini Go trains on."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.selfplay.datamodule import SelfPlayDataModule

__all__ = ["SelfPlayDataModule"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use; the other files here need no torch or Lightning."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from datamodules.selfplay import datamodule

    return getattr(datamodule, name)
