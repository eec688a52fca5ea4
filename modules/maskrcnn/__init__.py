"""The name that users write, ``modules.maskrcnn.MaskRCNNModule``; the code is in detection."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modules.detection.maskrcnn.module import MaskRCNNModule

__all__ = ["MaskRCNNModule"]


def __getattr__(name: str) -> Any:
    """Import the public name on first use, so that nothing else here needs torch or Lightning."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from modules.detection.maskrcnn import module

    return getattr(module, name)
