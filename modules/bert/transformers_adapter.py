"""Lets any masked-language model of the `transformers` library replace BERT.

Shapes: B sequences, S tokens of the longest one, T tokens of all concatenated, M masked positions,
V words.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modules.common.transformers_models import build_transformers_model


class MaskedLMAdapter(nn.Module):
    """A model of `transformers` that predicts words, on packed sequences.

    The model runs on padded sequences, the only kind that the library supports; its logits are
    kept at the masked positions only. Next-sentence logits are passed on where the model has them.

    Args:
        model: Name of a class of `transformers`, such as ``ModernBertForMaskedLM``,
            ``DebertaV2ForMaskedLM``, ``ElectraForMaskedLM`` or ``BertForPreTraining``.
        config: Settings of its configuration, such as ``{"vocab_size": 30522}``; the rest are the
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
        self._takes_segments = getattr(self.model.config, "type_vocab_size", 0) > 1

    def forward(
        self,
        input_T: Tensor,
        segment_T: Tensor,
        position_T: Tensor,
        cu_seqlens: Tensor,
        masked_index_M: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        """Predict words like ``Bert.forward``; next-sentence logits are None without that head."""
        lengths_B = cu_seqlens.diff().long()
        row_T = torch.repeat_interleave(
            torch.arange(len(lengths_B), device=input_T.device), lengths_B
        )
        shape = (len(lengths_B), int(lengths_B.max()))
        inputs = {
            "input_ids": input_T.new_zeros(shape).index_put((row_T, position_T), input_T),
            "attention_mask": input_T.new_zeros(shape).index_put(
                (row_T, position_T), torch.ones_like(input_T)
            ),
        }
        if self._takes_segments:
            segments_BS = segment_T.new_zeros(shape).index_put((row_T, position_T), segment_T)
            inputs["token_type_ids"] = segments_BS
        output = self.model(**inputs)
        logits_BSV = getattr(output, "prediction_logits", None)
        if logits_BSV is None:
            logits_BSV = getattr(output, "logits", None)
        if logits_BSV is None or logits_BSV.shape[:2] != shape:
            raise ValueError(
                f"{type(self.model).__name__} does not predict a word for every position; "
                "model.net.model must be a masked-language model (...ForMaskedLM)"
            )
        words_MV = logits_BSV[row_T[masked_index_M], position_T[masked_index_M]]
        return words_MV, getattr(output, "seq_relationship_logits", None)
