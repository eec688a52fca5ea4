"""The command that goes on with an interrupted run, to be pasted into a shell."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.cli.arguments import Option
from recipes.cli.benchmark import Benchmark
from recipes.cli.presets import demo_preset

if TYPE_CHECKING:
    from recipes.cli.parser import RecipeCLI

# Left out, as output ends up in logs that others read; the run's config.yaml has the setting.
SECRET = re.compile(
    r"(api|access|private)[_-]?key|token\b|secret|passw|authorization|bearer|credential|signature=|://[^/\s]*:[^/\s]*@",
    re.IGNORECASE,
)


def resume_command(benchmark: Benchmark, cli: RecipeCLI, resumed_from: Path | None) -> str:
    """Return the command line that resumes the newest run with the flags of this one.

    Args:
        benchmark: The data sheet.
        cli: The parsed command line.
        resumed_from: Directory of the run that this one continues.

    Returns:
        One line, quoted for a shell, with the launcher's name where there is one.
    """
    # `last` brings the settings of the run.
    brought = {str(demo_preset(benchmark)), str(resumed_from and resumed_from / "config.yaml")}
    words = [w for o in cli.arguments.options if _is_kept(o, brought) for w in o.words]
    words += ["--ckpt_path", "last"]
    if cli.config.output_root != Path("runs"):
        words += ["--output_root", str(cli.config.output_root)]
    return f"{_launcher()}{shlex.quote(script(benchmark.name))} fit {shlex.join(words)}"


def script(name: str) -> str:
    """Return the recipe's file as it was typed, or as it is named from the checkout's root."""
    typed = Path(sys.argv[0])
    return str(typed) if typed.name == f"{name}.py" else f"recipes/{name}.py"


def _is_kept(option: Option, brought: Collection[str]) -> bool:
    if option.name in ("--ckpt_path", "--output_root"):
        return False
    if option.name == "--config" and option.value in brought:
        return False
    return not SECRET.search(" ".join(option.words))


def _launcher() -> str:
    variables = os.environ
    if "TORCHELASTIC_RUN_ID" not in variables:
        return "srun python " if int(variables.get("SLURM_STEP_NUM_TASKS", "1")) > 1 else "python "
    nodes, each = variables.get("GROUP_WORLD_SIZE", "1"), variables.get("LOCAL_WORLD_SIZE", "1")
    meeting = f"--rdzv_backend c10d --rdzv_endpoint {variables.get('MASTER_ADDR')}:29500 "
    several = f"--nnodes {nodes} {meeting}" if nodes != "1" else ""
    return f"torchrun {several}--nproc_per_node {each} "
