"""3D U-Net: network, Dice loss, sliding-window evaluation."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modules.unet3d.module import UNet3DModule

__all__ = ["UNet3DModule"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use; the other files here need no torch or Lightning."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from modules.unet3d import module

    return getattr(module, name)
