"""Language models that predict the next token: Llama 3.1, GPT-OSS, AdamW training."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modules.llm.module import GptOssModule, Llama31Module

__all__ = ["GptOssModule", "Llama31Module"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that this package loads without torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from modules.llm import module

    return getattr(module, name)
