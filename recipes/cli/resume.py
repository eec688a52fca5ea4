"""Locate the checkpoint to resume from, and bring its run's settings along."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from callbacks.clock import process_start
from callbacks.quality_target import RunState, StopReason
from recipes.cli.arguments import Arguments
from recipes.cli.usage import UsageError

LAST = Path("checkpoints", "last.ckpt")
# A run that ended in one of these ways has nothing left to train.
FINISHED = {StopReason.TARGET_REACHED, StopReason.BUDGET_EXHAUSTED, StopReason.NON_FINITE}


@dataclass(frozen=True)
class Resume:
    """Arguments to parse, and the directory of the run that is resumed, if any."""

    arguments: Arguments
    folder: Path | None


def find_resume(name: str, arguments: Arguments) -> Resume:
    """Replace ``--ckpt_path last`` by a checkpoint, and put its run's configuration first."""
    path = arguments.value("--ckpt_path")
    if path is None:
        return Resume(arguments, None)
    if path != "last":
        return Resume(with_run_config(arguments), run_folder_of(Path(path)))
    folder = newest_unfinished(Path(arguments.value("--output_root") or "runs") / name)
    rest = arguments.without("--ckpt_path")
    resumed = Arguments((*rest.words, "--ckpt_path", str(folder / LAST)))
    return Resume(with_run_config(resumed), folder)


def newest_unfinished(root: Path) -> Path:
    """Return the newest run of one benchmark that can be trained further.

    Args:
        root: Directory of the benchmark's runs.

    Returns:
        The run's directory; it holds ``checkpoints/last.ckpt``.

    Raises:
        UsageError: If there is none; the message says how many runs there are.
    """
    records = {path.parent: _read(path) for path in root.glob("*/run.json")}
    # A resumed run that left no checkpoint of its own does not use up the run it came from.
    continued = {
        Path(record["resumed_from"]).resolve()
        for folder, record in records.items()
        if record.get("resumed_from") and (folder / LAST).is_file()
    }
    unfinished = [
        folder
        for folder, record in records.items()
        if record.get("stop_reason") not in FINISHED
        and folder.resolve() not in continued
        and not _is_running(record)
    ]
    ready = [folder for folder in unfinished if (folder / LAST).is_file()]
    if not ready:
        raise UsageError(
            f"--ckpt_path last: no unfinished run with a checkpoint in {root} "
            f"({len(records)} runs, {len(unfinished)} unfinished)"
        )
    return max(ready, key=lambda folder: folder.name)


def with_run_config(arguments: Arguments) -> Arguments:
    """Put the ``config.yaml`` of the checkpoint's run first; a configuration given now wins."""
    path = arguments.value("--ckpt_path")
    if path is None:
        return arguments
    if folder := run_folder_of(Path(path)):
        return arguments.with_config(folder / "config.yaml")
    if Path(path).is_file() and "--config" not in arguments:
        rank_zero_only(print)(
            f"{path} is not in a run directory, so its run's settings are unknown; "
            "pass its config.yaml with --config FILE"
        )
    return arguments


def run_folder_of(checkpoint: Path) -> Path | None:
    """Return the run directory that holds a checkpoint, recognised by its ``config.yaml``."""
    folder = checkpoint.parent.parent
    return folder if (folder / "config.yaml").is_file() else None


@contextmanager
def exit_suppressed_if_interrupted(state: RunState) -> Iterator[None]:
    """Let an interrupted run print its verdict: on Ctrl-C Lightning exits by itself."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if state.stop_reason is not StopReason.INTERRUPTED:
            raise


def _is_running(record: dict[str, Any]) -> bool:
    """Whether a run's process is still alive on this machine."""
    process = record.get("process") or {}
    if record.get("status") != "running" or process.get("host") != platform.node():
        return False
    try:
        pid = int(process["pid"])
        os.kill(pid, 0)
    except (OSError, KeyError, ValueError):
        return False
    # A restarted container gives out the same numbers again, also to our other ranks.
    return pid != os.getpid() and process.get("started") in (None, process_start(pid))


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
