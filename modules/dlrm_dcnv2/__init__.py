"""DLRM-DCNv2: cross layers over bags of embeddings."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modules.dlrm_dcnv2.module import DCNv2Module

__all__ = ["DCNv2Module"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that this package loads without torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from modules.dlrm_dcnv2 import module

    return getattr(module, name)
