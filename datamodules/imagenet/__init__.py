"""ImageNet 2012: preparation, decoding and batches for ResNet-50."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.imagenet.datamodule import ImageNetDataModule

__all__ = ["ImageNetDataModule"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use; the other files here need no torch or Lightning."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from datamodules.imagenet import datamodule

    return getattr(datamodule, name)
