"""Memory that a training step of a decoder takes besides its state, by arithmetic."""

from torch import nn

from modules.llm.experts import MixtureOfExperts
from modules.llm.net import Attention, Decoder, Layer
from modules.llm.token_losses import MOST_LOGITS

HALF, FULL = 2, 4  # bytes of a number in bfloat16 and in float32


def step_bytes(net: Decoder, sequences: int, length: int) -> dict[str, float]:
    """Count the least that a device needs for a step in bfloat16 under FSDP2.

    Args:
        net: The network; it needs no memory (``torch.device("meta")``).
        sequences: Sequences of one device's batch.
        length: Tokens of each.

    Returns:
        Bytes: ``activations`` that wait for the backward pass, those of one recomputed layer too;
        ``logits`` that exist at once; ``gathered`` weights: two layers, and what is in none.
    """
    layers = [layer for layer in net.layers if isinstance(layer, Layer)]
    tokens, words = sequences * length, net.vocab_size
    width = net.norm.weight.numel()
    waiting = sum(width if layer.recompute else kept_numbers(layer) for layer in layers)
    again = max((kept_numbers(layer) for layer in layers if layer.recompute), default=0)
    rows = min(tokens, max(1, MOST_LOGITS // words))
    sizes = [_count(layer) for layer in layers]
    return {
        "activations": HALF * tokens * (waiting + again),
        "logits": rows * words * (HALF + 2 * FULL),  # as products, as losses, their gradient
        "gathered": HALF * (_count(net) - sum(sizes) + sum(sorted(sizes)[-2:])),
    }


def kept_numbers(layer: Layer) -> int:
    """Count the numbers per token that autograd keeps of a layer, at least."""
    attention: Attention = layer.self_attn
    width = layer.input_layernorm.weight.numel()
    projected = (attention.q_proj, attention.k_proj, attention.v_proj)
    # Inputs and outputs of both norms; queries, keys and values, rotated ones and the mixture.
    kept = 4 * width + 3 * projected[0].out_features + 3 * projected[1].out_features
    if isinstance(layer.mlp, MixtureOfExperts):
        inner = layer.mlp.experts.down_proj.shape[-1]
        # Of each chosen expert its input and output, gate, silu(gate), up and their product.
        return kept + width + layer.mlp.gate.experts_per_token * (2 * width + 4 * inner)
    inner = layer.mlp.down_proj.in_features  # type: ignore[union-attr, assignment]
    return kept + 4 * inner


def _count(part: nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())
