"""Wikipedia text: preparation and masked samples for BERT."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.wikipedia.datamodule import WikipediaDataModule

__all__ = ["WikipediaDataModule"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use; the other files here need no torch or Lightning."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from datamodules.wikipedia import datamodule

    return getattr(datamodule, name)
