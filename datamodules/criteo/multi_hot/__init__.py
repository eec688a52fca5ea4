"""Criteo 1TB click logs with a bag of ids per category: preparation and batches for DLRM-DCNv2."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.criteo.multi_hot.datamodule import MultiHotDataModule

__all__ = ["MultiHotDataModule"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use; the files of preparation need no torch or Lightning."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from datamodules.criteo.multi_hot import datamodule

    return getattr(datamodule, name)
