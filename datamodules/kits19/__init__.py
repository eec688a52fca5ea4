"""KiTS19 CT volumes: preparation and crops for 3D U-Net."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.kits19.datamodule import KiTS19DataModule

__all__ = ["KiTS19DataModule"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use; the other files here need no torch or Lightning."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from datamodules.kits19 import datamodule

    return getattr(datamodule, name)
