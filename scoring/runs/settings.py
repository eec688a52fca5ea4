"""The settings of our own runs, read from ``config.yaml``, and where runs of one result differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scoring.runs.run import Run, without_moved_paths

CONFIG = "config.yaml"
# What runs of one result may differ in: seed, paths, and what affects only the display or speed.
FREE = (
    "seed_everything",
    "output_root",
    "ckpt_path",
    "checkpoint",
    "trainer.logger",
    "trainer.log_every_n_steps",
    "data.root",
    "data.prepared_dir",
    "data.num_workers",
    "data.prepare_processes",
)


def read_config(run: Run) -> dict[str, Any]:
    """Read the configuration of one run.

    Args:
        run: Any run.

    Returns:
        The contents of its ``config.yaml``; empty if there is none or it cannot be read.
    """
    import yaml

    try:
        config = yaml.safe_load((run.folder / CONFIG).read_text()) if run.is_own else None
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def num_nodes(run: Run) -> int:
    """Return the number of machines that a run trained on, by its configuration.

    Args:
        run: Any run.

    Returns:
        At least 1; 1 where the configuration does not name it.
    """
    nodes = (read_config(run).get("trainer") or {}).get("num_nodes")
    return nodes if isinstance(nodes, int) and nodes > 0 else 1


def differing_settings(runs: Sequence[Run]) -> tuple[str, ...]:
    """List the settings in which runs of one result differ although they must not.

    Args:
        runs: The runs that count.

    Returns:
        Lines such as ``model.learning_rate: 0.1 in 2, 0.4 in 3``; empty if all are equal.
    """
    # Parsing takes far longer than reading, and usually there is no difference.
    if len({_config_without_run_specific_lines(run) for run in runs} - {None}) < 2:
        return ()
    flat = [dict(_flatten(config)) for config in map(read_config, runs) if config]
    lines = []
    for name in sorted({name for settings in flat for name in settings}):
        if name.startswith(FREE):
            continue
        counts = Counter(without_moved_paths(str(settings.get(name))) for settings in flat)
        if len(counts) > 1:
            lines.append(f"{name}: " + ", ".join(f"{v} in {n}" for v, n in sorted(counts.items())))
    return tuple(lines)


def _config_without_run_specific_lines(run: Run) -> str | None:
    try:
        text = (run.folder / CONFIG).read_text() if run.is_own else None
    except (OSError, ValueError):
        return None
    if text is None:
        return None
    return "\n".join(
        line
        for line in text.splitlines()
        if not line.startswith(("#", "seed_everything:", "output_root:"))
    )


def _flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
