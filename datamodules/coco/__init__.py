"""COCO 2017: annotations, images and batches for SSD and Mask R-CNN."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.coco.datamodule import COCO300DataModule, COCOMaskDataModule

__all__ = ["COCO300DataModule", "COCOMaskDataModule"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use; the other files here need no torch or Lightning."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from datamodules.coco import datamodule

    return getattr(datamodule, name)
