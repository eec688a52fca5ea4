"""LibriSpeech: preparation and batches of utterances for RNN-T."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.librispeech.datamodule import LibriSpeechDataModule

__all__ = ["LibriSpeechDataModule"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use; the other files here need no torch or Lightning."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from datamodules.librispeech import datamodule

    return getattr(datamodule, name)
