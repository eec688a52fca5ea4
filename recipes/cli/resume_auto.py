"""``--ckpt_path auto``: go on with the newest unfinished run of the same command, or start anew."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from recipes.cli.arguments import Arguments
from recipes.cli.benchmark import Benchmark
from recipes.cli.parser import RecipeCLI
from recipes.cli.resume import gives_seed, sound_checkpoint
from recipes.cli.resume_check import differences_from_run
from recipes.cli.unfinished import claim, unfinished_runs


def same_command(
    benchmark: Benchmark, root: Path, arguments: Arguments
) -> tuple[Path, IO[str]] | None:
    """Choose the newest unfinished run that was started with the same settings, and say so.

    Args:
        benchmark: The data sheet.
        root: Directory of the benchmark's runs.
        arguments: The command line without ``--ckpt_path``. Nothing is taken from a run but its
            weights, so one with another network, rate or data is passed over.

    Returns:
        Its checkpoint, and the file that keeps other jobs from resuming it; ``None`` to start anew.
    """
    folders, counts = unfinished_runs(root)
    any_seed = not gives_seed(arguments)
    passed_over = []
    cli = RecipeCLI(benchmark, "fit", arguments, build=False) if folders else None
    if any_seed:
        os.environ.pop("PL_GLOBAL_SEED", None)  # parsing has drawn one
    for folder in folders:
        assert cli is not None
        reason = _reason_to_pass(folder, cli, any_seed=any_seed)
        if reason is None and (file := claim(folder)) is not None:
            try:
                checkpoint = sound_checkpoint(folder)
            except (OSError, ValueError) as error:
                reason = str(error).partition(";")[0]
            else:
                _tell(f"resuming {folder}")
                return checkpoint, file
        passed_over.append(f"{folder}: {reason or 'another job resumes it'}")
    newest = f"; passed over {passed_over[0]}" if passed_over else ""
    more = f"; and {len(passed_over) - 1} more" if passed_over[1:] else ""
    _tell(f"starting anew; no run to resume in {root} ({counts}{newest}{more})")
    return None


def _reason_to_pass(folder: Path, cli: RecipeCLI, *, any_seed: bool) -> str | None:
    if not (folder / "config.yaml").is_file():
        return "its config.yaml is missing"
    return "; ".join(differences_from_run(folder, cli, any_seed=any_seed)) or None


def _tell(line: str) -> None:
    rank_zero_only(print)(f"--ckpt_path auto: {line}", flush=True)
