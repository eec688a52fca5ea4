"""Writes the official submission tree: system description, results, code and instructions."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scoring.rules.scores import Score
from scoring.runs.result_sets import ResultSet
from scoring.runs.settings import read_config

IMPLEMENTATION = "finishline"
CODE_FOLDERS = ("recipes", "modules", "datamodules", "callbacks")
# Files that installing the code needs.
CODE_FILES = ("pyproject.toml", "README.md", "LICENSE")
# Settings of one run or one machine: the scripts set them, or the default is right.
NOT_PACKED = ("seed_everything", "output_root", "ckpt_path")
# A logger names its user's project, account and directories.
GROUPS_NOT_PACKED = {
    "data": ("root", "prepared_dir"),
    "trainer": ("logger", "default_root_dir", "profiler"),
}


def checkout() -> Path:
    return Path(__file__).resolve().parents[2]


def write_tree(
    tree: Path,
    scored: Sequence[tuple[ResultSet, Score]],
    description: dict[str, Any],
    args: argparse.Namespace,
) -> None:
    """Write the whole tree under a temporary name, then rename it, so it is never incomplete."""
    args.out.mkdir(parents=True, exist_ok=True)
    building = tree.with_name(f".{tree.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    (building / "systems").mkdir(parents=True)
    sheet = json.dumps(description, indent=4) + "\n"
    (building / "systems" / f"{args.system}.json").write_text(sheet)
    source = args.source or checkout()
    for result, item in scored:
        _write_results(building / "results" / args.system / item.benchmark, result, item)
        home = building / "benchmarks" / item.benchmark
        _copy_code(source, home / "implementations" / IMPLEMENTATION, item.benchmark)
        _write_instructions(home / args.system, result, item, args.system)
    building.replace(tree)


def _write_results(folder: Path, result: ResultSet, item: Score) -> None:
    folder.mkdir(parents=True)
    counted = {judged.path for judged in item.runs if judged.counts}
    chosen = [run for run in result.runs if str(run.path) in counted][: item.runs_required]
    for number, run in enumerate(chosen):
        shutil.copyfile(run.log.path, folder / f"result_{number}.txt")


def _copy_code(source: Path, target: Path, benchmark: str) -> None:
    """Copy the code of one benchmark and all shared code, without other benchmarks' recipes."""
    for relative in _tracked(source):
        if not (relative.parts[0] == "recipes" and _is_other_recipe(relative, benchmark)):
            (target / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / relative, target / relative)


def _is_other_recipe(relative: Path, benchmark: str) -> bool:
    """Return whether a file is another benchmark's recipe or preset; the command line is shared."""
    if relative.parts[1] == "cli" or relative.name == "__init__.py":
        return False
    name = relative.parts[2] if relative.parts[1] == "presets" else relative.stem
    return name != benchmark


def _tracked(source: Path) -> list[Path]:
    """List the code files of a checkout: those git tracks, or all of them without git."""
    listed = git_output(source, "ls-files", "--", *CODE_FOLDERS, *CODE_FILES)
    names = [Path(line) for line in listed.splitlines()]
    if not names:
        names = [p.relative_to(source) for n in CODE_FOLDERS for p in (source / n).rglob("*")]
        names += [Path(name) for name in CODE_FILES]
    return sorted(n for n in names if (source / n).is_file() and "__pycache__" not in n.parts)


def git_output(source: Path, *arguments: str) -> str:
    """Return git's output on a checkout; empty without git or outside a checkout."""
    command = ["git", "-C", str(source), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _write_instructions(folder: Path, result: ResultSet, item: Score, system: str) -> None:
    """Write the files that the rules require next to the code, for this system."""
    folder.mkdir(parents=True)
    facts = {
        "starting_weights_filename": "see the recipe",
        "weight_transformations": "none",
        "weight_data_types": str(result.common("precision") or "unknown"),
        "input_data_types": "see the data module",
        "retraining": "no",
    }
    (folder / f"{system}_{IMPLEMENTATION}.json").write_text(json.dumps(facts, indent=4) + "\n")
    revision = result.common("git_revision") or "unknown"
    versions = result.common("versions") or {}
    installs = "\n".join(f"- {name} {value}" for name, value in versions.items())
    _write_config(folder, result)
    code = f"../implementations/{IMPLEMENTATION}"
    (folder / "README.md").write_text(
        f"# {item.benchmark} on {system}\n\nCode: `{code}`, revision {revision}.\n\n"
        f"Run: `./setup.sh`, `DATA=/path ./init_datasets.sh`, `DATA=/path ./run_and_time.sh`.\n"
        f"Every setting of a run is in `config.yaml`.\n\n## Software\n\n{installs}\n"
    )
    recipe = f"python recipes/{item.benchmark}.py"
    head = f'#!/bin/bash\nset -eu\nhere="$(cd "$(dirname "$0")" && pwd)"\ncd "$here/{code}"\n'
    seed = "$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')"
    scripts = {
        "setup.sh": "pip install -e .\n",
        "init_datasets.sh": f'{recipe} prepare --data.root "$DATA"\n',
        "run_and_time.sh": f'{recipe} fit --config "$here/config.yaml" --data.root "$DATA" '
        f'--seed_everything "{seed}"\n',
    }
    for name, text in scripts.items():
        (folder / name).write_text(head + text)
        (folder / name).chmod(0o755)


def _without_paths(value: Any) -> Any:
    """Leave out absolute paths, which name a user's home; their flags are set anew."""
    if isinstance(value, dict):
        return {k: _without_paths(v) for k, v in value.items() if not _is_path(v)}
    if isinstance(value, list):
        return [_without_paths(v) for v in value if not _is_path(v)]
    return value


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("/", "~", "file:"))


def _write_config(folder: Path, result: ResultSet) -> None:
    """Write the settings of a run without its seed and the paths of its machine."""
    import yaml

    config = next(filter(None, map(read_config, result.runs)), None)
    if config is None:
        return
    kept = {key: value for key, value in config.items() if key not in NOT_PACKED}
    for group, names in GROUPS_NOT_PACKED.items():
        if isinstance(kept.get(group), dict):
            kept[group] = {k: v for k, v in kept[group].items() if k not in names}
    kept = _without_paths(kept)
    (folder / "config.yaml").write_text(yaml.safe_dump(kept, sort_keys=False))
