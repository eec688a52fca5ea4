"""Decoders in plain torch: Llama 3.1 and the GPT-OSS that the MLPerf reference trains.

Shapes: B sequences, S tokens, C hidden size, H query heads, K key and value heads, D numbers per
head, V words. Tensors have the names of transformers' models, without their leading ``model.``.
Sources: NVIDIA/NeMo @ v2.1.0 (Llama31Config8B) and AMD-AGI/Primus @ 3e7b8fa6 (gpt_oss_20B.yaml and
what it inherits), as mlcommons/training @ aa344c7 configures them.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init
from torch.utils.checkpoint import checkpoint

from modules.common.first_weights import draw_normal
from modules.llm.attention import causal_attention
from modules.llm.experts import MixtureOfExperts
from modules.llm.names import own_names
from modules.llm.rotary import Rotary, Scaling
from modules.llm.token_losses import token_losses


class Attention(nn.Module):
    """Grouped-query attention with rotated queries and keys, without biases.

    Args:
        hidden_size: C.
        heads: H and K.
        head_size: D.
        rotary: Rotates queries and keys.
        norm_eps: Epsilon of the norms of queries and keys; None leaves both norms out.
        window: Past tokens that a token sees besides itself; None for all of them.
    """

    def __init__(
        self,
        hidden_size: int,
        heads: tuple[int, int],
        head_size: int,
        rotary: Rotary,
        *,
        norm_eps: float | None = None,
        window: int | None = None,
    ) -> None:
        super().__init__()
        (num_heads, num_kv_heads), self.head_size = heads, head_size
        self.window, self.rotary = window, rotary
        self.q_proj = _linear(hidden_size, num_heads * head_size)
        self.k_proj = _linear(hidden_size, num_kv_heads * head_size)
        self.v_proj = _linear(hidden_size, num_kv_heads * head_size)
        self.o_proj = _linear(num_heads * head_size, hidden_size)
        if norm_eps is not None:
            self.q_norm = nn.RMSNorm(head_size, eps=norm_eps)
            self.k_norm = nn.RMSNorm(head_size, eps=norm_eps)
        self.has_norms = norm_eps is not None

    def forward(self, hidden_BSC: Tensor) -> Tensor:
        query, key, value = (
            project(hidden_BSC).unflatten(-1, (-1, self.head_size))
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.has_norms:
            query, key = self.q_norm(query).to(value.dtype), self.k_norm(key).to(value.dtype)
        query, key = self.rotary(query.transpose(1, 2), key.transpose(1, 2))
        mixed_BHSD = causal_attention(query, key, value.transpose(1, 2), self.window)
        return self.o_proj(mixed_BHSD.transpose(1, 2).flatten(2))

    def pairs(self, length: int) -> int:
        """Count the pairs of tokens that attend to each other in a sequence."""
        window = length if self.window is None else min(self.window, length)
        # The first tokens see all before them, the others the window and themselves.
        return window * (window + 1) // 2 + (length - window) * (window + 1)


class SwiGLU(nn.Module):
    """Gated feed-forward network without biases: ``down(silu(gate x) * up x)``."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = _linear(hidden_size, intermediate_size)
        self.up_proj = _linear(hidden_size, intermediate_size)
        self.down_proj = _linear(intermediate_size, hidden_size)

    def forward(self, hidden_BSC: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(hidden_BSC)) * self.up_proj(hidden_BSC))


class Layer(nn.Module):
    """Attention and feed-forward, each of the normalised input and added to it."""

    def __init__(
        self, hidden_size: int, norm_eps: float, attention: Attention, feed_forward: nn.Module
    ) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(hidden_size, eps=norm_eps)
        self.self_attn = attention
        self.post_attention_layernorm = nn.RMSNorm(hidden_size, eps=norm_eps)
        self.mlp = feed_forward
        self.recompute = False

    def forward(self, hidden_BSC: Tensor) -> Tensor:
        # Inside the layer, so that FSDP2's hooks stay around it.
        if self.recompute and self.training and torch.is_grad_enabled():
            output: Tensor = checkpoint(self._forward, hidden_BSC, use_reentrant=False)
            return output
        return self._forward(hidden_BSC)

    def _forward(self, hidden_BSC: Tensor) -> Tensor:
        hidden_BSC = hidden_BSC + self.self_attn(self.input_layernorm(hidden_BSC))
        return hidden_BSC + self.mlp(self.post_attention_layernorm(hidden_BSC))


class Decoder(nn.Module):
    """Token table, layers, final norm and an output matrix of its own.

    Args:
        layers: The layers.
        vocab_size: V.
        hidden_size: C.
        norm_eps: Epsilon of the final norm.
        init_std: Standard deviation of the first weights; ``o_proj`` and ``down_proj`` have it
            divided by the root of twice the number of layers.
        recompute_every: The backward pass runs every n-th layer again instead of keeping its
            activations; 0 keeps all.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        vocab_size: int,
        hidden_size: int,
        norm_eps: float,
        init_std: float,
        recompute_every: int,
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.embed_tokens = skip_init(
            nn.Embedding, vocab_size, hidden_size, device=torch.get_default_device()
        )
        self.layers = nn.ModuleList(layers)
        self.norm = nn.RMSNorm(hidden_size, eps=norm_eps)
        self.lm_head = _linear(hidden_size, vocab_size)
        for number, layer in enumerate(layers):
            layer.recompute = recompute_every > 0 and number % recompute_every == 0
        self._init_std = init_std
        if not self.norm.weight.is_meta:
            self.draw_weights(torch.initial_seed())

    def forward(self, ids_BS: Tensor, labels_BS: Tensor | None = None) -> Tensor:
        """Predict the next token of every position.

        Args:
            ids_BS: int64 in [0, V).
            labels_BS: The next tokens, to get their losses and never hold all logits.

        Returns:
            logits_BSV, or with labels losses_BS: float32 cross-entropies in nats.
        """
        hidden_BSC = self.embed_tokens(ids_BS)
        for layer in self.layers:
            hidden_BSC = layer(hidden_BSC)
        hidden_BSC = self.norm(hidden_BSC)
        if labels_BS is None:
            return self.lm_head(hidden_BSC)
        losses_T = token_losses(hidden_BSC.flatten(0, 1), self.lm_head.weight, labels_BS.flatten())
        return losses_T.view_as(labels_BS)

    def own_names(self, saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the tensors of a file of Hugging Face's to this network's."""
        return own_names(saved)

    def train_flops(self, length: int) -> int:
        """Count the operations of a forward and backward pass of one sequence.

        Matrix products and the attended pairs only; recomputation is not counted.
        """
        attended = sum(
            2 * layer.self_attn.q_proj.out_features * layer.self_attn.pairs(length)  # type: ignore[union-attr, operator]
            for layer in self.layers
        )
        # Backward is twice forward; multiply and add are two.
        return 3 * 2 * (length * self._multiplied() + attended)

    def _multiplied(self) -> int:
        """Count the weights that a token is multiplied with."""
        total = sum(part.weight.numel() for part in self.modules() if isinstance(part, nn.Linear))
        for part in self.modules():
            if isinstance(part, MixtureOfExperts):
                whole = sum(weight.numel() for weight in part.experts.parameters())
                total += whole * part.gate.experts_per_token // len(part.gate.weight)
                total += part.gate.weight.numel()
        return total

    def blocks_to_shard(self) -> Iterator[nn.Module]:
        """Yield the layers for FSDP2 to shard; the loss uses the output matrix by itself."""
        yield from self.layers

    def draw_weights(self, seed: int) -> None:
        """Draw the first weights, or this rank's shares of them, and compute the buffers.

        Args:
            seed: Decides on every bit, whatever the number of ranks.
        """
        reduced = self._init_std / (2 * len(self.layers)) ** 0.5
        for name, weight in self.named_parameters():
            if weight.ndim == 1:  # norms
                nn.init.ones_(weight)
            else:
                last = name.endswith(("o_proj.weight", "down_proj.weight", "down_proj"))
                draw_normal(weight, reduced if last else self._init_std, seed=seed, name=name)
        for part in self.modules():
            if isinstance(part, Rotary):
                part.reset_frequencies()


class Llama31(Decoder):
    """Llama 3.1; 8,030,261,248 parameters with the defaults.

    Args:
        vocab_size: Words in the vocabulary.
        hidden_size: C.
        num_layers: Layers.
        num_heads: Query heads, a multiple of ``num_kv_heads``.
        num_kv_heads: Key and value heads.
        head_size: Numbers per head, even.
        intermediate_size: Width of the feed-forward part.
        rope_base: Base of the positions' frequencies.
        rope_scaling: Whether they are scaled as Llama 3.1 does, at every sequence length.
        norm_eps: Epsilon of the norms.
        init_std: Standard deviation of the first weights.
        recompute_every: The backward pass runs every n-th layer again instead of keeping its
            activations; 0 keeps all, 1 takes the least memory.

    Raises:
        ValueError: If the heads do not fit together.
    """

    def __init__(
        self,
        *,
        vocab_size: int = 128_256,
        hidden_size: int = 4096,
        num_layers: int = 32,
        num_heads: int = 32,
        num_kv_heads: int = 8,
        head_size: int = 128,
        intermediate_size: int = 14_336,
        rope_base: float = 500_000.0,
        rope_scaling: bool = True,
        norm_eps: float = 1e-5,
        init_std: float = 0.02,
        recompute_every: int = 0,
    ) -> None:
        _check_heads(num_heads, num_kv_heads, head_size)
        scaling, heads = Scaling() if rope_scaling else None, (num_heads, num_kv_heads)
        rotary = Rotary(head_size, rope_base, scaling)
        super().__init__(
            [
                Layer(
                    hidden_size,
                    norm_eps,
                    Attention(hidden_size, heads, head_size, rotary),
                    SwiGLU(hidden_size, intermediate_size),
                )
                for _ in range(num_layers)
            ],
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            norm_eps=norm_eps,
            init_std=init_std,
            recompute_every=recompute_every,
        )
        self.rope_base, self.rope_scaling = rope_base, scaling


class GptOss(Decoder):
    """GPT-OSS as the MLPerf reference trains it; 20,488,418,112 parameters with the defaults.

    It is not OpenAI's network: no attention sinks, no biases, no YaRN, no clamped activation, but
    norms of queries and keys. Layers 0, 2, ... see a window, the others the whole sequence.

    Args:
        vocab_size: Words in the vocabulary.
        hidden_size: C.
        num_layers: Layers.
        num_heads: Query heads, a multiple of ``num_kv_heads``.
        num_kv_heads: Key and value heads.
        head_size: Numbers per head, even.
        intermediate_size: Width of each expert.
        num_experts: Experts per layer.
        experts_per_token: Experts that a token passes.
        window: Past tokens that a token sees besides itself in the even layers; None for all.
        qk_norm: Whether queries and keys are normalised before they are rotated.
        rope_base: Base of the positions' frequencies.
        norm_eps: Epsilon of the norms.
        init_std: Standard deviation of the first weights.
        recompute_every: The backward pass runs every n-th layer again instead of keeping its
            activations; 0 keeps all, 1 takes the least memory.

    Raises:
        ValueError: If the heads or the experts do not fit together.
    """

    def __init__(
        self,
        *,
        vocab_size: int = 128_256,
        hidden_size: int = 2880,
        num_layers: int = 24,
        num_heads: int = 64,
        num_kv_heads: int = 8,
        head_size: int = 64,
        intermediate_size: int = 2880,
        num_experts: int = 32,
        experts_per_token: int = 4,
        window: int | None = 128,
        qk_norm: bool = True,
        rope_base: float = 150_000.0,
        norm_eps: float = 1e-6,
        init_std: float = 0.008,
        recompute_every: int = 0,
    ) -> None:
        _check_heads(num_heads, num_kv_heads, head_size)
        if not 1 <= experts_per_token <= num_experts:
            raise ValueError(
                f"experts_per_token must be in [1, {num_experts}], got {experts_per_token}"
            )
        if window is not None and window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        rotary, heads = Rotary(head_size, rope_base), (num_heads, num_kv_heads)
        super().__init__(
            [
                Layer(
                    hidden_size,
                    norm_eps,
                    Attention(
                        hidden_size,
                        heads,
                        head_size,
                        rotary,
                        norm_eps=norm_eps if qk_norm else None,
                        window=None if number % 2 else window,
                    ),
                    MixtureOfExperts(
                        hidden_size, intermediate_size, num_experts, experts_per_token
                    ),
                )
                for number in range(num_layers)
            ],
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            norm_eps=norm_eps,
            init_std=init_std,
            recompute_every=recompute_every,
        )
        self.rope_base = rope_base


def _check_heads(num_heads: int, num_kv_heads: int, head_size: int) -> None:
    if num_heads % num_kv_heads:
        raise ValueError(f"num_heads {num_heads} is not a multiple of num_kv_heads {num_kv_heads}")
    if head_size % 2:
        raise ValueError(f"head_size must be even, got {head_size}")


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """Build a layer without torch's first weights, as ``Decoder`` draws others."""
    device = torch.get_default_device()
    return skip_init(nn.Linear, inputs, outputs, bias=False, device=device)
