"""The runs in a directory that can be trained further, by the records that they left."""

from __future__ import annotations

import fcntl
import json
import os
import platform
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

import yaml
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from callbacks.checkpoint_files import checkpoint_of
from callbacks.clock import process_start
from callbacks.heartbeat import WATCHED_SECONDS, living, pid_namespace
from callbacks.quality_target import StopReason
from recipes.cli.usage import UsageError

# A run that ended in one of these ways has nothing left to train.
FINISHED = {StopReason.TARGET_REACHED, StopReason.BUDGET_EXHAUSTED, StopReason.NON_FINITE}


class Unfinished(NamedTuple):
    """The runs of one benchmark that can be trained further, the one started last first."""

    folders: list[Path]
    """Each holds a checkpoint and a ``config.yaml`` that can be read."""
    counts: str
    """How many runs there are, for a message."""


def unfinished_runs(root: Path) -> Unfinished:
    """Find the runs of one benchmark that can be trained further.

    Args:
        root: Directory of the benchmark's runs; it may not exist.

    Returns:
        The runs. One whose ``config.yaml`` is damaged is left out, with a line.
    """
    records = {path.parent: _read(path) for path in root.glob("*/run.json")}
    # A resumed run that left no checkpoint of its own does not use up the run it came from.
    continued = {
        Path(record["resumed_from"]).resolve()
        for folder, record in records.items()
        if record.get("resumed_from") and checkpoint_of(folder)
    }
    unfinished = [
        folder
        for folder, record in records.items()
        if record.get("stop_reason") not in FINISHED and folder.resolve() not in continued
    ]
    ready = [folder for folder in unfinished if checkpoint_of(folder) and _config_is_read(folder)]
    alive = _alive({folder: records[folder] for folder in ready})
    alive |= {folder for folder in ready if claim(folder) is None}
    ready = [folder for folder in ready if folder not in alive]
    counts = f"{len(records)} runs, {len(unfinished)} unfinished, {len(alive)} of them running"
    newest_first = sorted(ready, key=lambda f: _started(f, records[f]), reverse=True)
    return Unfinished(newest_first, counts)


def newest_unfinished(root: Path) -> Path:
    """Return the run of one benchmark that was started last and can be trained further.

    Args:
        root: Directory of the benchmark's runs.

    Returns:
        The run's directory; it holds a checkpoint.

    Raises:
        UsageError: If there is none; the message says how many runs there are.
    """
    folders, counts = unfinished_runs(root)
    if not folders:
        raise UsageError(
            f"--ckpt_path last: no unfinished run with a checkpoint in {root} ({counts})"
        )
    return folders[0]


def claim(folder: Path) -> IO[str] | None:
    """Lock a run for this process, so that no other job resumes it as well.

    Args:
        folder: The run's directory.

    Returns:
        A file; closing it, as the process's end does, frees the run. ``None`` where another
        process has it.
    """
    try:
        file = (folder / "run.json").open("r+")  # over NFS a lock needs a file to write to
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError:  # someone else's run, or a file system without locks
        return Path(os.devnull).open()
    return file


def run_folder_of(checkpoint: Path) -> Path | None:
    """Return the run directory that holds a checkpoint, recognised by its ``config.yaml``."""
    folder = checkpoint.parent.parent
    return folder if (folder / "config.yaml").is_file() else None


def _alive(records: dict[Path, dict[str, Any]]) -> set[Path]:
    """Return the runs that are still going on, here or on another machine."""
    running = {f: record for f, record in records.items() if record.get("status") == "running"}
    here = {folder for folder, record in running.items() if _is_ours(record["process"])}
    alive = {folder for folder in here if _process_lives(running[folder]["process"])}
    elsewhere = [f for f in running if f not in here and (f / "heartbeat").is_file()]
    if elsewhere:
        _tell(
            f"Watching for {WATCHED_SECONDS:.0f} s whether a run of another machine or container "
            f"lives: {', '.join(map(str, elsewhere))}"
        )
    return alive | living(elsewhere)


def _is_ours(process: dict[str, Any]) -> bool:
    """Whether a process's number is one of this machine and container."""
    same = process.get("pid_namespace") in (None, pid_namespace())
    return process.get("host") == platform.node() and same


def _process_lives(process: dict[str, Any]) -> bool:
    try:
        pid = int(process["pid"])
        os.kill(pid, 0)
    except (OSError, KeyError, ValueError, TypeError, OverflowError):
        return False
    # A restarted container gives out the same numbers again, also to our other ranks.
    return pid != os.getpid() and process.get("started") in (None, process_start(pid))


def _started(folder: Path, record: dict[str, Any]) -> float:
    """Return when a run was started, in seconds since the epoch."""
    # Local time, as in the folder's name, is set back once a year.
    stamps = (
        (record.get("started_at"), "%Y-%m-%dT%H:%M:%S%z"),
        (folder.name[:15], "%Y%m%d-%H%M%S"),
    )
    for text, form in stamps:
        try:
            return datetime.strptime(str(text), form).timestamp()
        except ValueError:
            continue
    return (folder / "run.json").stat().st_mtime


def _read(path: Path) -> dict[str, Any]:
    """Read a record; a damaged one counts as that of an unfinished run, with a line."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        record = None
    if not isinstance(record, dict):
        _tell(f"{path} is damaged: its run counts as unfinished")
        return {}
    kinds: Iterable[tuple[str, type]] = (
        ("resumed_from", str), ("stop_reason", str), ("status", str), ("process", dict),
    )  # fmt: skip
    kept = {key: record[key] for key, kind in kinds if isinstance(record.get(key), kind)}
    return {"process": {}, "started_at": record.get("started_at"), **kept}


def _config_is_read(folder: Path) -> bool:
    path = folder / "config.yaml"
    if not path.exists():
        return True
    try:
        if isinstance(yaml.safe_load(path.read_text()), dict):
            return True
        reason = "it holds no settings"
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
    _tell(f"{path} is damaged ({reason}): its run is passed over; name its checkpoint to resume it")
    return False


def _tell(line: str) -> None:
    rank_zero_only(print)(line, flush=True)
