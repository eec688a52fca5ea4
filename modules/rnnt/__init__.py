"""RNN-T: network, features, transducer loss, decoding."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modules.rnnt.module import RNNTModule

__all__ = ["RNNTModule"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use; the other files here need no torch or Lightning."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from modules.rnnt import module

    return getattr(module, name)
