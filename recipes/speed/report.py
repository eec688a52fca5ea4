"""The report of a measurement: printed as it grows, and kept in a JSON file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Names that people read -> keys of the JSON file.
LABELS = {
    "lightning_over_plain": "Lightning / plain loop",
    "plain_ms_per_step_median": "plain loop ms/step median",
    "model_flops_per_second": "model FLOP/s",
    "mfu": "MFU",
    "peak_memory_gib": "peak memory GiB",
    "data_wait_share": "data wait share",
}
UNKNOWN = {"mfu": "unknown (no peak for this device)"}


class Report:
    """Figures of one ``speed`` command.

    Args:
        path: JSON file, written after each part so that an interrupted command leaves what it had;
            None writes none.
        facts: First entries: ``benchmark``, ``command``, ``synthetic``.
    """

    def __init__(self, path: Path | None, facts: Mapping[str, Any]) -> None:
        self._path = path
        self.content: dict[str, Any] = dict(facts)

    def add(self, **parts: Any) -> None:
        """Add entries and write the file.

        The file is one JSON object. Its keys, as far as they were measured (numbers that are not
        finite are null):

        - ``benchmark``, ``command`` (list of words), ``revision`` (git, or null), ``device``,
          ``precision``, ``synthetic``, ``scaled`` (what was scaled, a line each);
        - ``figures``: ``batch_size``, ``samples_per_second``, ``ms_per_step_median``,
          ``ms_per_step_p90``, ``data_wait_share`` (null if synthetic),
          ``plain_ms_per_step_median``, ``lightning_over_plain``, ``model_flops_per_second`` and
          ``mfu`` (null if unknown), ``peak_memory_gib``;
        - ``evaluation``: ``ms_per_sample``, ``sample`` (what is counted), ``samples``; null without
          ``--synthetic``;
        - ``own``: of work outside the steps; Mini Go's ``searches_per_second``,
          ``evaluations_per_second``, ``games_per_second`` and ``searches_per_game``;
        - ``limit``: ``product_tflops``, ``product_dtype``, ``copy_gb_per_second`` and, of this
          benchmark on this device, ``samples_per_second``;
        - ``published``: ``unit``, ``best``, ``accelerator``, ``source``, ``share_of_best``,
          ``share_of_limit``;
        - ``operators``: ``name``, ``ms``, ``share``, ``calls`` of each, and ``trace``, a path;
        - ``variants``: as ``compare_variants`` returns them.

        Args:
            **parts: Key -> value.
        """
        self.content.update(parts)
        if self._path is not None:
            text = json.dumps(_finite(self.content), indent=1, default=str)
            self._path.write_text(f"{text}\n", encoding="utf-8")


def show(figures: Mapping[str, Any]) -> None:
    """Print figures, one a line; those that are None are left out, unless they have a reason."""
    for key, value in figures.items():
        if value is None and key not in UNKNOWN:
            continue
        text = value if isinstance(value, str) else UNKNOWN.get(key, "")
        print(f"{label(key):32} {text or plain(value)}", flush=True)


def show_lines(lines: Sequence[str]) -> None:
    """Print lines as they are."""
    for line in lines:
        print(line, flush=True)


def plain(value: float) -> str:
    """Write a figure with four digits or, from 1000 to 10 millions, all of its whole ones."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"


def label(key: str) -> str:
    """Return a key as people read it, such as ``samples/s``."""
    words = LABELS.get(key, key)
    return words.replace("_per_second", "/s").replace("_per_", "/").replace("_", " ")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
