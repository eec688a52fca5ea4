"""ResNet-50 v1.5: network, LARS training."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modules.resnet.module import ResNetModule

__all__ = ["ResNetModule"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that this package loads without torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from modules.resnet import module

    return getattr(module, name)
