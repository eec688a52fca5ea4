"""C4 as one stream of tokens: Megatron's indexed files, for language models."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.c4.datamodule import C4DataModule

__all__ = ["C4DataModule"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use; the files of preparation need no torch or Lightning."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from datamodules.c4 import datamodule

    return getattr(datamodule, name)
