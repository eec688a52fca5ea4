"""BERT whose layers multiply in 8-bit floats, by torchao: for the open division only.

The recipe decides which tensors are cast, with which scales, and what stays in higher precision:
embeddings, attention, LayerNorm and both heads do. Not run on a GPU yet.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import torch

from modules.bert.net import Bert

LEAST_CAPABILITY = (8, 9)  # Ada and Hopper; earlier GPUs have no such products
MULTIPLE = 16  # of both sizes of a matrix


def float8_bert(
    *,
    scaling: Literal["tensorwise", "rowwise"] = "tensorwise",
    emulate: bool = False,
    vocab_size: int = 30_522,
    hidden_size: int = 1024,
    num_layers: int = 24,
    num_heads: int = 16,
    intermediate_size: int = 4096,
    max_positions: int = 512,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
) -> Bert:
    """Build BERT with the linear maps of its layers in float8; the weights stay float32.

    Args:
        scaling: One scale per tensor, or per row and column (slower, closer).
        emulate: Round to float8 but multiply in higher precision, on any device: for tests.
        vocab_size: As of ``Bert``, like those that follow.
        hidden_size: A multiple of 16.
        num_layers: Encoder layers.
        num_heads: Attention heads.
        intermediate_size: A multiple of 16.
        max_positions: Longest sequence.
        dropout: Fraction of numbers dropped.
        attention_dropout: Fraction of attention probabilities dropped.

    Returns:
        The network; its state dict is that of ``Bert``.

    Raises:
        ValueError: If torchao or a GPU that can do it is missing, or a size is not a multiple.
    """
    check_sizes((("hidden_size", hidden_size), ("intermediate_size", intermediate_size)))
    convert, config_of = _torchao()
    if not (emulate or can_multiply()):
        raise ValueError(
            "8-bit floats need a GPU of compute capability 8.9 or more (such as H100, H200 and "
            "L40), and this machine has none; leave the preset fp8.yaml out"
        )
    net = Bert(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        intermediate_size=intermediate_size,
        max_positions=max_positions,
        dropout=dropout,
        attention_dropout=attention_dropout,
    )
    # A batch's tokens, the inner size of a weight's gradient, are not a multiple of 16.
    padded = {"pad_inner_dim": True} if scaling == "tensorwise" else {}
    config = dataclasses.replace(config_of(scaling), emulate=emulate, **padded)
    convert(net.layers, config=config)
    return net


def check_sizes(sizes: Sequence[tuple[str, int]]) -> None:
    """Check that the kernels take matrices of these sizes."""
    for name, size in sizes:
        if size % MULTIPLE:
            raise ValueError(f"{name} must be a multiple of {MULTIPLE} in float8, got {size}")


def can_multiply() -> bool:
    """Return whether this machine's GPU has products of 8-bit floats."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= LEAST_CAPABILITY


def _torchao() -> tuple[Any, Any]:
    """Import torchao: the function that converts layers, and the one that names a recipe."""
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ImportError as error:
        raise ValueError(
            "8-bit floats need torchao, which is missing or does not fit torch "
            f"{torch.__version__}; run pip install 'finishline[gpu]'"
        ) from error
    return convert_to_float8_training, Float8LinearConfig.from_recipe_name
