"""Criteo 1TB click logs: preparation and batches for DLRM."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.criteo.datamodule import CriteoDataModule

__all__ = ["CriteoDataModule"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use; the files of preparation need no torch or Lightning."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from datamodules.criteo import datamodule

    return getattr(datamodule, name)
