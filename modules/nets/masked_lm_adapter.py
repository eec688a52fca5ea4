"""Lets any masked-language model of the `transformers` library take BERT's place.

Shapes: B sequences, S tokens of the longest one, T tokens of all in a row, M masked positions, V
words.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class MaskedLMAdapter(nn.Module):
    """A model of `transformers` that predicts words, on packed sequences.

    The model runs on padded sequences, as the library knows no others; its logits are kept at the
    masked positions only. Next-sentence logits are passed on where the model has them.

    Args:
        model: Name of a class of `transformers`, such as ``ModernBertForMaskedLM``,
            ``DebertaV2ForMaskedLM``, ``ElectraForMaskedLM`` or ``BertForPreTraining``.
        config: Settings of its configuration, such as ``{"vocab_size": 30522}``; the rest are the
            library's defaults.
        pretrained: Folder with ``config.json`` and weights to start from instead.

    Raises:
        ValueError: If the library lacks the class.
    """

    def __init__(
        self,
        *,
        model: str,
        config: dict[str, Any] | None = None,
        pretrained: Path | None = None,
    ) -> None:
        super().__init__()
        import transformers

        chosen = getattr(transformers, model, None)
        if chosen is None or not hasattr(chosen, "config_class"):
            raise ValueError(f"model.net.model is {model!r}, which is no model of transformers")
        if pretrained is not None:
            self.model = chosen.from_pretrained(pretrained, local_files_only=True, **(config or {}))
        else:
            self.model = chosen(chosen.config_class(**(config or {})))
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
        """Predict masked words.

        Args:
            input_T: int64 word ids.
            segment_T: int64, 0 or 1; left out where the model has one segment only.
            position_T: int64 from each sequence's start.
            cu_seqlens: (B + 1,) integers: where sequences start, and T.
            masked_index_M: int64 into T.

        Returns:
            word_logits_MV: Of the masked positions.
            next_logits_B2: None if the model has no such head.
        """
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
            logits_BSV = output.logits
        words_MV = logits_BSV[row_T[masked_index_M], position_T[masked_index_M]]
        return words_MV, getattr(output, "seq_relationship_logits", None)
