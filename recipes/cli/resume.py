"""Locate the checkpoint to resume from, and bring its run's settings along."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from callbacks.checkpoint_files import LAST, PREVIOUS, is_checkpoint
from callbacks.quality_target import RunState, StopReason
from modules.common.torch_file import load_verified
from recipes.cli.arguments import Arguments
from recipes.cli.unfinished import newest_unfinished


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
    resumed = Arguments((*rest.words, "--ckpt_path", str(sound_checkpoint(folder))))
    return Resume(with_run_config(resumed), folder)


def sound_checkpoint(folder: Path) -> Path:
    """Return a run's last checkpoint, or with a line the one before where that is damaged.

    Args:
        folder: Directory of a run with a checkpoint.

    Returns:
        The checkpoint.

    Raises:
        ValueError: If both are damaged; one line.
    """
    last, previous = (folder / "checkpoints" / name for name in (LAST, PREVIOUS))
    if not is_checkpoint(previous):
        return last  # its own check names what is wrong
    try:
        load_verified(last, mmap=True)
    except (OSError, ValueError) as error:
        missing = isinstance(error, OSError)
        why = f"{last} cannot be read" if missing else str(error).partition(";")[0]
        load_verified(previous, mmap=True)
        rank_zero_only(print)(f"{why}: resuming from the checkpoint before it, {previous}")
        return previous
    return last


def with_run_config(arguments: Arguments) -> Arguments:
    """Put the ``config.yaml`` of the checkpoint's run first; a configuration given now wins."""
    path = arguments.value("--ckpt_path")
    if path is None:
        return arguments
    if folder := run_folder_of(Path(path)):
        return arguments.with_config(folder / "config.yaml")
    if is_checkpoint(Path(path)) and "--config" not in arguments:
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
