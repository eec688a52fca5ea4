"""Finding what to go on from: ``--ckpt_path last`` and the settings of an earlier run."""

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
from recipes.cli.usage import UsageError

# A run that ended in one of these ways has nothing left to train.
FINISHED = {StopReason.TARGET_REACHED, StopReason.BUDGET_EXHAUSTED, StopReason.NON_FINITE}


@dataclass(frozen=True)
class Resume:
    """Arguments to parse, and the folder of the run that is continued (or ``None``)."""

    args: list[str]
    folder: Path | None


def find(name: str, args: list[str]) -> Resume:
    """Replace ``--ckpt_path last`` by the newest unfinished run's checkpoint and settings.

    The earlier run's ``config.yaml`` and seed come first, so flags given now still win.

    Args:
        name: Benchmark name.
        args: Arguments after ``fit``.

    Returns:
        The arguments with a real path, and that run's folder.

    Raises:
        UsageError: If there is no unfinished run with a checkpoint.
    """
    path = option(args, "--ckpt_path")
    if path is None:
        return Resume(args, None)
    if path != "last":
        folder = run_folder_of(Path(path))
        return Resume(with_run_config(args), folder)
    root = Path(option(args, "--output_root") or "runs") / name
    folder = newest_unfinished(root)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    rest = without(args, "--ckpt_path")
    return Resume(with_run_config([*rest, "--ckpt_path", str(checkpoint)]), folder)


def newest_unfinished(root: Path) -> Path:
    """The newest run folder that can be trained on.

    Args:
        root: Folder with all runs of one benchmark.

    Returns:
        A folder that holds ``checkpoints/last.ckpt``.

    Raises:
        UsageError: If there is none; the message says what was found instead.
    """
    records = {path.parent: _read(path) for path in root.glob("*/run.json")}
    # A continuation that left no checkpoint of its own does not use up the run it came from.
    continued = {
        Path(record["resumed_from"]).resolve()
        for folder, record in records.items()
        if record.get("resumed_from") and (folder / "checkpoints" / "last.ckpt").is_file()
    }
    unfinished = [
        folder
        for folder, record in records.items()
        if record.get("stop_reason") not in FINISHED
        and folder.resolve() not in continued
        and not _alive(record)
    ]
    ready = [f for f in unfinished if (f / "checkpoints" / "last.ckpt").is_file()]
    if not ready:
        raise UsageError(
            f"--ckpt_path last: no unfinished run with a checkpoint in {root} "
            f"({len(records)} runs, {len(unfinished)} unfinished)"
        )
    return max(ready, key=lambda folder: folder.name)


def with_run_config(args: list[str]) -> list[str]:
    """Put the ``config.yaml`` of a checkpoint's run first; a configuration named now wins over it.

    Args:
        args: Arguments after the command.

    Returns:
        The arguments.
    """
    path = option(args, "--ckpt_path")
    if path is None:
        return args
    if folder := run_folder_of(Path(path)):
        return ["--config", str(folder / "config.yaml"), *args]
    named = option(args, "--config") or option(args, "-c")
    if Path(path).is_file() and not named:
        rank_zero_only(print)(
            f"{path} lies in no run folder, so its run's settings are not known; "
            "--config FILE names its config.yaml"
        )
    return args


def run_folder_of(checkpoint: Path) -> Path | None:
    """The run folder that a checkpoint lies in.

    Args:
        checkpoint: Path of the checkpoint.

    Returns:
        Its grandparent folder if a ``config.yaml`` is there, else ``None``.
    """
    folder = checkpoint.parent.parent
    return folder if (folder / "config.yaml").is_file() else None


def option(args: list[str], name: str) -> str | None:
    """Value of a flag before parsing.

    Args:
        args: Arguments.
        name: The flag with its dashes.

    Returns:
        The last value given as ``--flag value`` or ``--flag=value``; ``None`` where absent.
    """
    value = None
    for position, arg in enumerate(args):
        if arg == name and position + 1 < len(args):
            value = args[position + 1]
        elif arg.startswith(name + "="):
            value = arg.partition("=")[2]
    return value


def without(args: list[str], name: str) -> list[str]:
    """Drop a flag and its value.

    Args:
        args: Arguments.
        name: The flag with its dashes.

    Returns:
        The other arguments.
    """
    kept, skip = [], False
    for arg in args:
        if skip or arg == name:
            skip = arg == name and not skip
        elif not arg.startswith(name + "="):
            kept.append(arg)
    return kept


@contextmanager
def interrupts_as_stop(state: RunState) -> Iterator[None]:
    """Let an interrupted run end with its verdict: Lightning exits on Ctrl-C by itself.

    Args:
        state: The run's shared state.

    Yields:
        Nothing.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if state.stop_reason is not StopReason.INTERRUPTED:
            raise


def _alive(record: dict[str, Any]) -> bool:
    """Whether the process of a run that has not ended still runs on this machine."""
    process = record.get("process") or {}
    if record.get("status") != "running" or process.get("host") != platform.node():
        return False
    try:
        pid = int(process["pid"])
        os.kill(pid, 0)
    except (OSError, KeyError, ValueError):
        return False
    # A container that is started again gives the same numbers, to our other ranks as well.
    return pid != os.getpid() and process.get("started") in (None, process_start(pid))


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
