"""The one rule by which the data's facts become arguments of a network.

A data module says what its data fix (``net_facts``): the number of classes, the image size, the
sizes of tables, the board. Each fact is handed to the class or function that ``--model.net`` names
if it has an argument of that name, or of one of the other names below, the first that it has, and
the user gave none of them. Everything else keeps that class's own default.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

# Fact -> names that libraries use for it, in the order in which they are tried.
NAMES: dict[str, tuple[str, ...]] = {
    "num_classes": (
        "num_classes", "n_classes", "nclasses", "classes", "num_class", "class_num",
        "out_channels", "num_labels", "n_labels", "out_chans", "n_out",
    ),
    "in_channels": ("in_channels", "in_chans", "input_channels", "in_ch"),
    "image_size": ("image_size", "img_size", "input_size", "input_resolution", "image_shape"),
    "spatial_dims": ("spatial_dims", "dimensions", "ndim"),
    "vocab_size": ("vocab_size", "vocabulary_size", "num_words", "n_words", "n_vocab", "ntoken"),
    "seq_length": (
        "seq_length", "seq_len", "max_seq_len", "max_seq_length", "max_positions", "block_size",
        "context_length", "n_positions", "n_ctx", "max_len",
    ),
    "num_labels": ("num_labels", "n_labels", "label_count"),
    "table_sizes": ("table_sizes", "cardinalities", "field_dims", "num_embeddings_per_feature"),
    "num_dense": ("num_dense", "n_dense", "dense_in_features", "num_dense_features"),
    "size": ("size", "board_size", "board"),
}  # fmt: skip


def names_of(fact: str) -> tuple[str, ...]:
    """Return the argument names of a fact, its own first."""
    return NAMES.get(fact, (fact,))


def handed_over(
    facts: Mapping[str, Any], accepted: Mapping[str, Any], given: Collection[str]
) -> dict[str, Any]:
    """Choose the arguments that the data fix.

    Args:
        facts: Fact -> value.
        accepted: The callable's arguments -> default, ``None`` where there is none.
        given: Arguments that the user gave.

    Returns:
        Argument -> value, in the form of its default: one number for an image's two sides or two.
    """
    chosen = {}
    for fact, value in facts.items():
        names = names_of(fact)
        name = next((name for name in names if name in accepted), None)
        if name is not None and not any(other in given for other in names):
            chosen[name] = _in_form(value, accepted[name])
    return chosen


def _in_form(value: Any, default: Any) -> Any:
    several = isinstance(default, list | tuple)
    if several and isinstance(value, int):
        return type(default)([value] * len(default))
    if isinstance(default, int) and isinstance(value, list | tuple) and len(set(value)) == 1:
        return value[0]
    return value
