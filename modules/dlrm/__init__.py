"""DLRM: network, embedding tables, AUC."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modules.dlrm.module import DLRMModule

__all__ = ["DLRMModule"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that this package loads without torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from modules.dlrm import module

    return getattr(module, name)
