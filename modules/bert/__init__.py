"""BERT-large: network, masked language model loss, LAMB training."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modules.bert.module import BertModule

__all__ = ["BertModule"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that this package loads without torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from modules.bert import module

    return getattr(module, name)
