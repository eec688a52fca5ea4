"""``collect --slurm``: the runs that are missing as one array of batch jobs."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from scoring.drawing.tables import print_json
from scoring.runs.collection import ENDED, SEED_VARIABLES, Collection, open_collection


def run(args: argparse.Namespace) -> int:
    """Print the script of an array of jobs, one per missing run, or submit it.

    Args:
        args: The arguments of ``collect`` (see ``scoring.cli``).

    Returns:
        0.

    Raises:
        ValueError: If Slurm refuses the job, or does not exist here.
    """
    collection = open_collection(args, lambda _: None)
    try:
        missing = [slot.number for slot in collection.slots if slot.state != ENDED]
        script = script_of(collection, missing, args.parallel) if missing else None
        job = submit(script) if script and args.submit else None
        collection.job = job or collection.job
        collection.save()
    finally:
        collection.lock.release()
    if args.json:
        print_json({"folder": str(collection.folder), "missing": missing, "script": script,
                    "job": job})  # fmt: skip
    elif script is None:
        print(f"all {len(collection.slots)} runs have ended: {_score(collection)}")
    elif job is None:
        print(script, end="")
    else:
        print(
            f"job {job}: {len(missing)} runs into {collection.folder}\nthen: {_score(collection)}"
        )
    return 0


def script_of(collection: Collection, numbers: Sequence[int], at_once: int | None) -> str:
    """Write the batch script of an array whose tasks are runs; each draws a seed of its own.

    Args:
        collection: What is to be collected.
        numbers: Numbers of the runs, from 1.
        at_once: How many run at a time; None for as many as there is room for.

    Returns:
        A script for ``sbatch``.
    """
    folder, devices = collection.folder, _flag(collection.arguments, "--trainer.devices")
    log = Path(str(folder).replace("%", "%%"), "slurm-%A_%a.log")
    options = {
        "job-name": f"collect-{collection.recipe.stem}",
        "array": _ranges(numbers) + (f"%{at_once}" if at_once else ""),
        "nodes": _flag(collection.arguments, "--trainer.num_nodes"),
        "ntasks-per-node": devices,
        "output": shlex.quote(str(log)),
    }
    if _flag(collection.arguments, "--trainer.accelerator") != "cpu":
        options["gpus-per-node"] = devices
    command = [sys.executable, str(collection.recipe), "fit"]
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH --{name}={value}" for name, value in options.items()),
        f"# Submit it with sbatch; when all have ended: {_score(collection)}",
        f"cd {shlex.quote(os.getcwd())} || exit 1",
        f"unset {' '.join(SEED_VARIABLES)}",
        f'root={shlex.quote(str(folder))}/$(printf %02d "$SLURM_ARRAY_TASK_ID")',
        f'srun --kill-on-bad-exit=1 {shlex.join(command)} --output_root "$root" \\',
        f"    {shlex.join(collection.arguments)}",
    ]
    return "\n".join(lines).rstrip(" \\\n") + "\n"


def submit(script: str) -> str:
    """Hand a script to ``sbatch`` and return the job's number."""
    if shutil.which("sbatch") is None:
        raise ValueError("--submit: there is no sbatch here; run it on a login node of the cluster")
    done = subprocess.run(["sbatch", "--parsable"], input=script, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"--submit: {' '.join(done.stderr.split())}")
    return done.stdout.strip()


def _flag(arguments: Sequence[str], name: str) -> str:
    """Return the last value of a flag, ``1`` without it."""
    values = [following for word, following in zip(arguments, arguments[1:], strict=False)
              if word == name]  # fmt: skip
    values += [word.partition("=")[2] for word in arguments if word.startswith(f"{name}=")]
    return values[-1] if values else "1"


def _ranges(numbers: Sequence[int]) -> str:
    """Write numbers as Slurm does: ``1-3,5``."""

    def parts() -> Iterator[str]:
        start = previous = numbers[0]
        for number in [*numbers[1:], 0]:
            if number != previous + 1:
                yield str(start) if start == previous else f"{start}-{previous}"
                start = number
            previous = number

    return ",".join(parts())


def _score(collection: Collection) -> str:
    return f"python -m scoring score {shlex.quote(str(collection.folder))}"
