"""Locate the checkpoint to resume from, and bring its run's settings along."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from callbacks.checkpoint_files import LAST, PREVIOUS, is_checkpoint
from callbacks.quality_target import RunState, StopReason
from modules.common.torch_file import load_verified
from recipes.cli.arguments import Arguments
from recipes.cli.config_file import read_config
from recipes.cli.ranks import Ranks, decided_once
from recipes.cli.unfinished import claim, newest_unfinished, run_folder_of
from recipes.cli.usage import UsageError

CHOOSING = ("last", "auto")  # what --ckpt_path takes besides a path
# Finds a checkpoint in a directory of runs for a command line, or none.
Choice = Callable[[Path, Arguments], tuple[Path, IO[str]] | None]


@dataclass(frozen=True)
class Resume:
    """Arguments to parse, and the directory of the run that is resumed, if any."""

    arguments: Arguments
    folder: Path | None
    claim: IO[str] | None = None
    """On the rank that chose it, a file that keeps other jobs from resuming the same run."""


def find_resume(
    name: str, arguments: Arguments, *, ranks: Ranks | None = None, auto: Choice | None = None
) -> Resume:
    """Replace ``--ckpt_path last`` or ``auto`` by a checkpoint, and bring its run's settings along.

    Args:
        name: The benchmark.
        arguments: Words after the command.
        ranks: All processes of the run; rank 0 chooses.
        auto: Chooses for ``auto``, which takes only the seed from the run.

    Returns:
        The arguments, with the run's configuration put first.
    """
    path = arguments.value("--ckpt_path")
    if path is None:
        return Resume(arguments, None)
    if path not in CHOOSING:
        return Resume(with_run_config(arguments), run_folder_of(Path(path)))
    rest = arguments.without("--ckpt_path")
    claims: list[IO[str]] = []

    def choose() -> str | None:
        root = _output_root(rest) / name
        found = auto(root, rest) if path == "auto" and auto else _newest(root)
        if found is None:
            return None
        claims.append(found[1])
        return str(found[0])

    checkpoint = decided_once(ranks, choose)
    if checkpoint is None:
        return Resume(rest, None)
    if not is_checkpoint(Path(checkpoint)):
        raise UsageError(f"--ckpt_path {path}: no file {checkpoint}; every node must read the runs")
    folder = Path(checkpoint).parent.parent
    words = (*rest.words, "--ckpt_path", checkpoint)
    if path == "last":
        resumed = with_run_config(Arguments(words))
    else:
        resumed = Arguments(words if gives_seed(rest) else (*_seed(folder), *words))
    return Resume(resumed, folder, claims[0] if claims else None)


def gives_seed(arguments: Arguments) -> bool:
    """Whether the command line, one of its files or a variable names a seed."""
    files = arguments.values("--config")
    given = (read_config(path).get("seed_everything") is not None for path in files)
    return "--seed_everything" in arguments or "PL_GLOBAL_SEED" in os.environ or any(given)


def _seed(folder: Path) -> tuple[str, str]:
    return "--seed_everything", str(read_config(str(folder / "config.yaml"))["seed_everything"])


def _output_root(arguments: Arguments) -> Path:
    files = (read_config(path).get("output_root") for path in arguments.values("--config"))
    given = [arguments.value("--output_root"), *reversed([*files]), "runs"]
    return Path(next(root for root in given if root))


def _newest(root: Path) -> tuple[Path, IO[str]]:
    folder = newest_unfinished(root)
    if (file := claim(folder)) is None:
        raise UsageError(f"--ckpt_path last: another job has just begun to resume {folder}")
    return sound_checkpoint(folder), file


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


@contextmanager
def exit_suppressed_if_interrupted(state: RunState) -> Iterator[None]:
    """Let an interrupted run print its verdict: on Ctrl-C Lightning exits by itself."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if state.stop_reason is not StopReason.INTERRUPTED:
            raise
