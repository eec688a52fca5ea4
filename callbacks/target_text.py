"""The target in words. No torch here: a recipe's ``--help`` shows it."""

from __future__ import annotations

from collections.abc import Mapping

SIGNS = {"max": ">=", "min": "<="}


def target_text(metrics: Mapping[str, float], mode: str) -> str:
    """Return the target in words, e.g. ``mean_dice >= 0.908``.

    Args:
        metrics: Metric name -> value to reach.
        mode: ``max`` or ``min``.

    Returns:
        All conditions, joined by ``and``.
    """
    return " and ".join(f"{name} {SIGNS[mode]} {value:g}" for name, value in metrics.items())
