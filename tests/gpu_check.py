"""A first look at a machine with a GPU, within eight minutes: is it right, and how fast is it?

    python -m tests.gpu_check                  one card
    python -m tests.gpu_check --devices 8      also ranks that must equal one, and how they scale
    python -m tests.gpu_check --device cpu --steps 2 --minutes 30      a rehearsal without a card

In this order: the tests marked ``gpu`` that guard correctness, with several devices the ranks,
``speed --synthetic`` of every recipe with its preset, those furthest from the card's limit first,
then variants of these. Each step is a process with a share of the time and a log; what it leaves
goes to the next, and what is kept for later ones is theirs, so that all get a turn. One that fails
or is stopped stops nothing else. Figures are written as they come (``speed/<recipe>.json``,
``variants/<recipe>.json``), a table at the end. What is not run is named: short tests of the
presets, whose settings the measurements use anyway. Exit status 1 if a step failed, ranks differ or
a variant is wrong, 2 if a package is missing.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.gpu_table import table

ROOT = Path(__file__).resolve().parents[1]
# By how far the published best is from the limit of the card: the furthest first.
RECIPES = ("minigo", "dlrm", "rnnt", "unet3d", "maskrcnn", "ssd", "resnet", "bert")
# Those furthest away, on top of eager fp32; "preset" means the preset's own settings.
VARIANTS = {
    "minigo": "bf16,preset",
    "dlrm": "tf32,bf16,preset",
    "rnnt": "bf16,preset",
    "unet3d": "bf16,channels_last,channels_last+bf16,preset",
    "maskrcnn": "bf16,channels_last+bf16,preset",
}
# Every variant starts from the same tables, copied from main memory: 8 GiB, in about a second.
SMALLER = {"dlrm": ["--memory_gib", "12"]}
# Seconds of a check of one card, 480 in all: imports and data of tests, then per recipe imports,
# compilation (of Mini Go's engine once; of DLRM, U-Net, SSD and ResNet), rounds, an evaluation.
CORRECT_S, RANKS_S = 90, 60
SPEED_S = {
    "minigo": 45, "dlrm": 40, "rnnt": 30, "unet3d": 40, "maskrcnn": 30, "ssd": 35, "resnet": 40,
    "bert": 25,
}  # fmt: skip
VARIANTS_S = {"minigo": 20, "dlrm": 25, "rnnt": 20, "unet3d": 20, "maskrcnn": 20}
LEFT_OUT = "the_presets_precision_compilation_and_layout"
# What a preset sets that only a CUDA device can do, or that takes minutes elsewhere.
WITHOUT_A_CARD = ["--trainer.accelerator", "cpu", "--warmup.compile", "false"]
WITHOUT_A_CARD += ["--step_seconds", "0.5"]
OWN = {"minigo": ["--model.cuda_graph_play", "false"]}
GRACE_S = 5.0


class Step(NamedTuple):
    """One process of the check."""

    name: str
    command: list[str]
    limit_s: float
    """Its share of the time; it may take longer if those before it took less."""


class Outcome(NamedTuple):
    """How a step ended."""

    step: Step
    status: str
    """``passed``, ``failed (STATUS)``, ``stopped after N s`` or ``left out``."""
    seconds: float
    last_line: str


def main(arguments: Sequence[str] | None = None) -> int:
    given = parse(arguments)
    folder: Path = given.out
    for name in ("speed", "variants", "logs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    # Of an earlier check: the table has this one's figures.
    for old in (*folder.glob("speed/*.json"), *folder.glob("variants/*.json")):
        old.unlink()
    (folder / "ranks.json").unlink(missing_ok=True)
    if lacking := missing_packages():
        print(f"not installed: {', '.join(lacking)}; run pip install -e '.[test]'")
        return 2
    outcomes = run_all(plan(given), folder / "logs", given.minutes * 60)
    text, right = table(folder, outcomes)
    (folder / "table.txt").write_text(text)
    print(text)
    return 0 if right and all(each.status == "passed" for each in outcomes) else 1


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--devices", type=int, default=1, help="ranks to compare with one")
    parser.add_argument("--preset", default="h200x1", help="which of each recipe's presets")
    parser.add_argument("--steps", type=int, default=12, help="optimizer steps of each round")
    text = "for everything together; each step has its share"
    parser.add_argument("--minutes", type=float, default=8.0, help=text)
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--out", type=Path, default=Path("gpu_check"), help="figures and logs")
    return parser.parse_args(arguments)


def missing_packages() -> list[str]:
    """Return what the project needs and this environment lacks, before any step fails of it."""
    lacking = []
    for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        name = re.match(r"[\w.-]+", text)[0]  # type: ignore[index]
        try:
            importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            lacking.append(name)
    return lacking


def plan(given: argparse.Namespace) -> list[Step]:
    """Return the steps in the order of their worth: a fast wrong step is worth nothing."""
    tests = ["-m", "pytest", "-q", "-m", "gpu and not demo and not speed", "-k", f"not {LEFT_OUT}"]
    workers = ["-n", "4"] if given.device == "cuda" else ["-n", "0"]
    tests += ["-p", "no:cacheprovider", *workers, *gpu_tests()]
    steps = [Step("correct", [sys.executable, *tests], CORRECT_S)]
    if given.devices > 1:
        ranks = ["--device", given.device, "--devices", str(given.devices)]
        command = [sys.executable, "-m", "tests.gpu_ranks", *ranks, "--out", str(given.out)]
        steps.append(Step("ranks", command, RANKS_S))
    steps += [Step(f"speed {stem}", speed(given, stem), SPEED_S[stem]) for stem in given.only]
    steps += [
        Step(f"variants {stem}", speed(given, stem, VARIANTS[stem]), VARIANTS_S[stem])
        for stem in given.only
        if stem in VARIANTS
    ]
    share = 60 * given.minutes / sum(step.limit_s for step in steps)
    return [step._replace(limit_s=share * step.limit_s) for step in steps]


def gpu_tests() -> list[str]:
    """Return the files that have tests for a GPU: collecting all of them takes long."""
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(p.relative_to(ROOT)) for p in paths if re.search(r"\bmark\.gpu\b", p.read_text())]


def speed(given: argparse.Namespace, stem: str, variants: str | None = None) -> list[str]:
    """Build the command that measures a recipe; its figures go into a file of its own."""
    preset = f"recipes/presets/{stem}/{given.preset}.yaml"
    file = given.out.resolve() / ("variants" if variants else "speed") / f"{stem}.json"
    command = [sys.executable, f"recipes/{stem}.py", "speed", "--synthetic", "--config", preset]
    command += ["--steps", str(given.steps), "--json", str(file)]
    if given.device == "cpu":
        command += [*WITHOUT_A_CARD, *OWN.get(stem, [])]
    elif variants:
        command += SMALLER.get(stem, [])
    return command + (["--variants", variants] if variants else [])


def run_all(steps: Sequence[Step], logs: Path, budget_s: float) -> list[Outcome]:
    """Run the steps one after the other; each may take what the later ones do not need."""
    end, outcomes = time.monotonic() + budget_s, []
    for number, step in enumerate(steps):
        kept = sum(later.limit_s for later in steps[number + 1 :])
        left = end - time.monotonic()
        if left <= 0:
            outcomes.append(Outcome(step, "left out", 0.0, "no time was left"))
            continue
        limit = min(left, max(step.limit_s, left - kept))
        outcome = run_step(step._replace(limit_s=limit), logs)
        print(
            f"{outcome.seconds:6.1f} s  {step.name:18} {outcome.status}: {outcome.last_line}",
            flush=True,
        )
        outcomes.append(outcome)
    return outcomes


def run_step(step: Step, logs: Path) -> Outcome:
    """Run one step in a session of its own, so that its time limit ends its children too."""
    path, start = logs / f"{step.name.replace(' ', '-')}.log", time.monotonic()
    with path.open("w") as log:
        log.write(f"{' '.join(step.command)}\n")
        log.flush()
        process = subprocess.Popen(
            step.command,
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            code = process.wait(step.limit_s)
            status = "passed" if code == 0 else f"failed ({code})"
        except subprocess.TimeoutExpired:
            status = f"stopped after {step.limit_s:.0f} s"
        finally:
            last = last_line(path)  # before it is told that it was interrupted
            end_session(process)
    return Outcome(step, status, time.monotonic() - start, last)


def last_line(path: Path) -> str:
    """Return the last line of a log that has any text; the first is the command."""
    lines = [line for line in path.read_text(errors="replace").splitlines()[1:] if line.strip()]
    return lines[-1].strip() if lines else "no output"


def end_session(process: subprocess.Popen[bytes]) -> None:
    """End a step and the processes that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
            if number == signal.SIGKILL:
                return


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the step ends as well
    raise SystemExit(main())
