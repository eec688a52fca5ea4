"""Which round's rules a result is judged by, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FoundRound:
    """A round, and what it was found from."""

    name: str
    """Such as ``v5.1``."""
    reason: str
    """Such as ``directory training_results_v5.1``; reads on after "because of"."""

    def words(self) -> str:
        """Return name and reason for a line of output.

        Returns:
            Such as ``v5.1 (directory training_results_v5.1)``.
        """
        return f"{self.name} ({self.reason})"


def summary(found: Iterable[FoundRound]) -> dict[str, Any]:
    """Return the rounds of several results for JSON.

    Args:
        found: The round of each result.

    Returns:
        ``round``, the name if it is the same for all and else None, and ``rounds``, each name
        with its reasons.
    """
    reasons: dict[str, list[str]] = {}
    for item in found:
        known = reasons.setdefault(item.name, [])
        if item.reason not in known:
            known.append(item.reason)
    name = next(iter(reasons)) if len(reasons) == 1 else None
    return {"round": name, "rounds": [{"name": n, "reasons": r} for n, r in reasons.items()]}
