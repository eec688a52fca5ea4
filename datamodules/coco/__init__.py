"""COCO 2017: annotations, images and batches for SSD and Mask R-CNN."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.coco.mask_datamodule import COCOMaskDataModule
    from datamodules.coco.ssd_datamodule import COCO300DataModule

__all__ = ["COCO300DataModule", "COCOMaskDataModule"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use; the files of preparation need no torch or Lightning."""
    if name == "COCO300DataModule":
        from datamodules.coco.ssd_datamodule import COCO300DataModule

        return COCO300DataModule
    if name == "COCOMaskDataModule":
        from datamodules.coco.mask_datamodule import COCOMaskDataModule

        return COCOMaskDataModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
