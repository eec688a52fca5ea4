"""Lets any causal language model of the `transformers` library replace the reference network.

Shapes: B sequences, S tokens, V words.
"""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from modules.common.transformers_models import build_transformers_model


class CausalLMAdapter(nn.Module):
    """A model of `transformers` that predicts the next token.

    Its own auxiliary losses, such as those that balance experts, are not added.

    Args:
        model: Name of a class of `transformers`, such as ``LlamaForCausalLM``,
            ``GptOssForCausalLM``, ``Qwen3MoeForCausalLM`` or ``GPT2LMHeadModel``.
        config: Settings of its configuration, such as ``{"hidden_size": 64}``; the rest are the
            library's defaults.
        pretrained: Directory with ``config.json`` and weights to start from instead.
        vocab_size: Words, where neither ``config`` nor ``pretrained`` says; the data's.

    Raises:
        FileNotFoundError: If the directory has no ``config.json``.
        ValueError: If transformers is not installed, lacks the class, or the class's configuration
            has no such setting.
    """

    def __init__(
        self,
        *,
        model: str,
        config: dict[str, Any] | None = None,
        pretrained: Path | None = None,
        vocab_size: int | None = None,
    ) -> None:
        super().__init__()
        self.model = build_transformers_model(
            model, config=config, pretrained=pretrained, vocab_size=vocab_size
        )
        self.vocab_size = int(self.model.config.vocab_size)

    def forward(self, ids_BS: Tensor) -> Tensor:
        """Predict the next token of every position: logits (B, S, V)."""
        output = self.model(input_ids=ids_BS, use_cache=False)
        logits = getattr(output, "logits", None)
        if logits is None or logits.shape[:2] != ids_BS.shape:
            raise ValueError(
                f"{type(self.model).__name__} does not predict a word for every position; "
                "model.net.model must be a causal language model (...ForCausalLM)"
            )
        return logits
