"""BERT with masked-word and next-sentence heads, on packed sequences, in plain torch.

Shapes: B sequences, T tokens of all of them concatenated, M masked positions, C hidden size, H
heads, D = C / H, V words. Source: mlcommons/training @ 9947bdf2, language_model/tensorflow/bert
(modeling.py, run_pretraining.py); the defaults are BERT-large, uncased.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.bert.varlen_attention import Plan, plan_attention, varlen_attention

INIT_STD = 0.02
# Below the resolution of half precision: normalisation must run in single precision.
NORM_EPS = 1e-12


class Embeddings(nn.Module):
    """Sum of word, position and segment vectors, normalised."""

    def __init__(
        self, vocab_size: int, hidden_size: int, max_positions: int, dropout: float
    ) -> None:
        super().__init__()
        self.word = nn.Embedding(vocab_size, hidden_size)
        self.position = nn.Embedding(max_positions, hidden_size)
        self.segment = nn.Embedding(2, hidden_size)
        self.norm = nn.LayerNorm(hidden_size, eps=NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, input_T: Tensor, segment_T: Tensor, position_T: Tensor) -> Tensor:
        sum_TC = self.word(input_T) + self.position(position_T) + self.segment(segment_T)
        return self.dropout(self.norm(sum_TC))


class Layer(nn.Module):
    """Attention and feed-forward, each followed by dropout, residual sum and LayerNorm."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        dropouts: tuple[float, float],  # after each part; of attention probabilities
    ) -> None:
        super().__init__()
        self.num_heads, self.attention_dropout = num_heads, dropouts[1]
        # Three weights, not one: LAMB rescales each of them by its own norm.
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)
        self.attention_norm = nn.LayerNorm(hidden_size, eps=NORM_EPS)
        self.up = nn.Linear(hidden_size, intermediate_size)
        self.down = nn.Linear(intermediate_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size, eps=NORM_EPS)
        self.dropout = nn.Dropout(dropouts[0])

    def forward(self, hidden_TC: Tensor, plan: Plan) -> Tensor:
        heads = (self.num_heads, -1)
        query_THD = self.query(hidden_TC).unflatten(-1, heads)
        key_THD = self.key(hidden_TC).unflatten(-1, heads)
        value_THD = self.value(hidden_TC).unflatten(-1, heads)
        dropout = self.attention_dropout if self.training else 0.0
        mixed_TC = varlen_attention(query_THD, key_THD, value_THD, plan, dropout=dropout).flatten(1)
        hidden_TC = self.attention_norm(hidden_TC + self.dropout(self.output(mixed_TC)))
        wide = F.gelu(self.up(hidden_TC), approximate="tanh")
        return self.norm(hidden_TC + self.dropout(self.down(wide)))


class Bert(nn.Module):
    """BERT for pre-training; 336,226,108 parameters with the defaults.

    Args:
        vocab_size: Words in the vocabulary.
        hidden_size: C, a multiple of ``num_heads``.
        num_layers: Encoder layers.
        num_heads: H.
        intermediate_size: Width of the feed-forward part.
        max_positions: Longest sequence.
        dropout: Fraction of numbers dropped in embeddings and after each part of a layer.
        attention_dropout: Fraction of attention probabilities dropped.

    Raises:
        ValueError: If the heads do not divide the hidden size.
    """

    def __init__(
        self,
        *,
        vocab_size: int = 30_522,
        hidden_size: int = 1024,
        num_layers: int = 24,
        num_heads: int = 16,
        intermediate_size: int = 4096,
        max_positions: int = 512,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(f"hidden_size {hidden_size} is not a multiple of {num_heads} heads")
        self.vocab_size, self.max_positions = vocab_size, max_positions
        self.embeddings = Embeddings(vocab_size, hidden_size, max_positions, dropout)
        dropouts = (dropout, attention_dropout)
        self.layers = nn.ModuleList(
            Layer(hidden_size, num_heads, intermediate_size, dropouts) for _ in range(num_layers)
        )
        self.pooler = nn.Linear(hidden_size, hidden_size)
        self.transform = nn.Linear(hidden_size, hidden_size)
        self.transform_norm = nn.LayerNorm(hidden_size, eps=NORM_EPS)
        self.output_bias = nn.Parameter(torch.zeros(vocab_size))
        self.next_sentence = nn.Linear(hidden_size, 2)
        self.apply(_initialise)

    def forward(
        self,
        input_T: Tensor,
        segment_T: Tensor,
        position_T: Tensor,
        cu_seqlens: Tensor,
        masked_index_M: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Predict masked words and whether the second sentence follows the first.

        Args:
            input_T: int64 word ids.
            segment_T: int64, 0 or 1.
            position_T: int64 from each sequence's start.
            cu_seqlens: (B + 1,) int32: first token of each sequence, and T.
            masked_index_M: int64 into T.

        Returns:
            word_logits_MV: Of the masked positions only.
            next_logits_B2: Class 1: the second sentence is a random one.
        """
        plan = plan_attention(cu_seqlens, self.max_positions)
        hidden_TC = self.embeddings(input_T, segment_T, position_T)
        for layer in self.layers:
            hidden_TC = layer(hidden_TC, plan)
        pooled_BC = torch.tanh(self.pooler(hidden_TC[cu_seqlens[:-1].long()]))
        words_MC = F.gelu(
            self.transform(hidden_TC.index_select(0, masked_index_M)), approximate="tanh"
        )
        words_MC = self.transform_norm(words_MC)
        word_logits_MV = F.linear(words_MC, self.embeddings.word.weight, self.output_bias)
        return word_logits_MV, self.next_sentence(pooled_BC)

    def train_flops(self, lengths: Sequence[int], num_masked: int) -> int:
        """Count the operations of a forward and backward pass, matrix products only."""
        layer: Layer = self.layers[0]  # type: ignore[assignment]
        hidden, wide = layer.down.weight.shape
        tokens, pairs = sum(lengths), sum(length**2 for length in lengths)
        layers = len(self.layers) * (tokens * (4 * hidden + 2 * wide) * hidden + 2 * pairs * hidden)
        heads = num_masked * hidden * (hidden + self.vocab_size) + len(lengths) * hidden * hidden
        return 3 * 2 * (layers + heads)  # backward is twice forward; multiply and add are two

    def blocks_to_shard(self) -> Iterator[nn.Module]:
        """Yield the layers for FSDP2 to shard, without the word table: the head uses it too."""
        yield from self.layers

    def tensor_names(self) -> Iterator[str]:
        for name, _ in self.named_parameters():
            yield name


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=INIT_STD, a=-2 * INIT_STD, b=2 * INIT_STD)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
