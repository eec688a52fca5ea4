"""Writes the official submission tree: system description, results, code and instructions."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scoring.rules.rounds import load_round
from scoring.rules.scores import Score
from scoring.runs.result_sets import ResultSet
from scoring.runs.settings import read_config

IMPLEMENTATION = "finishline"
CODE_FOLDERS = ("recipes", "modules", "datamodules", "callbacks")
SCRIPTS = ("setup.sh", "init_datasets.sh", "run_and_time.sh")
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
    """Write the tree, or add a system to it, under a temporary name: it is never incomplete."""
    args.out.mkdir(parents=True, exist_ok=True)
    building = tree.with_name(f".{tree.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    if tree.is_dir():
        shutil.copytree(tree, building, symlinks=True)
    (building / "systems").mkdir(parents=True, exist_ok=True)
    sheet = json.dumps(description, indent=4) + "\n"
    (building / "systems" / f"{args.system}.json").write_text(sheet)
    source = args.source or checkout()
    for result, item in scored:
        _write_results(building / "results" / args.system / item.benchmark, result, item)
        home = building / "benchmarks" / item.benchmark
        code = _add_code(source, home / "implementations", result, item.benchmark, args.system)
        _write_instructions(home / args.system, result, item, args.system, code)
    _swap(building, tree)


def check_place(out: Path, org: str, system: str) -> None:
    """Raise ValueError unless a system can be added there: nothing, or submissions without it."""
    others = [p for p in out.iterdir() if not p.name.startswith(".")] if out.exists() else []
    if not all((p / "systems").is_dir() and (p / "results").is_dir() for p in others):
        raise ValueError(f"{out} is not empty; pass a new directory, or one with submissions only")
    tree = out / org
    if (tree / "results" / system).exists() or (tree / "systems" / f"{system}.json").exists():
        raise ValueError(
            f"{tree} has the system {system} already; pass another --system, or remove "
            f"results/{system}, systems/{system}.json and benchmarks/*/{system} from it"
        )


def is_own(result: ResultSet) -> bool:
    """Return whether all runs were made by our recipes."""
    return all(run.is_own for run in result.runs)


def is_ours(source: Path) -> bool:
    """Return whether a directory is a checkout of this project."""
    try:
        project = (source / "pyproject.toml").read_text()
    except (OSError, ValueError):
        project = ""
    return source.resolve() == checkout() or f'name = "{IMPLEMENTATION}"' in project


def _swap(building: Path, tree: Path) -> None:
    """Put the new tree into place of the older one, if there is one."""
    older = tree.with_name(f".{tree.name}.older")
    shutil.rmtree(older, ignore_errors=True)
    if tree.exists():
        tree.replace(older)
    building.replace(tree)
    shutil.rmtree(older, ignore_errors=True)


def _write_results(folder: Path, result: ResultSet, item: Score) -> None:
    folder.mkdir(parents=True)
    counted = {judged.path for judged in item.runs if judged.counts}
    chosen = [run for run in result.runs if str(run.path) in counted]
    if not load_round(item.round).more_runs:  # else all of them make the score
        chosen = chosen[: item.runs_required]
    for number, run in enumerate(chosen):
        shutil.copyfile(run.log.path, folder / f"result_{number}.txt")


def _add_code(
    source: Path, implementations: Path, result: ResultSet, benchmark: str, system: str
) -> str:
    """Copy the code that made the runs and return its directory's name; equal code is shared."""
    ours = is_own(result)
    name = IMPLEMENTATION if ours else source.resolve().name
    fresh = implementations / f".{name}"
    fresh.mkdir(parents=True)
    for relative in _files_for(source, benchmark) if ours else _all_files(source):
        (fresh / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / relative, fresh / relative)
    if (implementations / name).is_dir():
        if _contents(fresh) == _contents(implementations / name):
            shutil.rmtree(fresh)
            return name
        name = f"{name}_{system}"  # another revision than that of the systems before it
    fresh.replace(implementations / name)
    return name


def _contents(folder: Path) -> dict[Path, bytes]:
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _files_for(source: Path, benchmark: str) -> list[Path]:
    """List the code of one benchmark and all shared code, without other benchmarks' recipes."""
    return [
        relative
        for relative in _tracked(source)
        if not (relative.parts[0] == "recipes" and _is_other_recipe(relative, benchmark))
    ]


def _all_files(source: Path) -> list[Path]:
    """List every file of other people's code: those git tracks, or all but hidden ones."""
    listed = git_output(source, "ls-files")
    names = [Path(line) for line in listed.splitlines()]
    names = names or [path.relative_to(source) for path in source.rglob("*")]
    return sorted(
        n
        for n in names
        if (source / n).is_file() and not any(p.startswith((".", "__pycache__")) for p in n.parts)
    )


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


def _write_instructions(
    folder: Path, result: ResultSet, item: Score, system: str, implementation: str
) -> None:
    """Write the files that the rules require next to the code, for this system."""
    folder.mkdir(parents=True)
    facts = {
        "starting_weights_filename": "see the recipe",
        "weight_transformations": "none",
        "weight_data_types": str(result.common("precision") or "unknown"),
        "input_data_types": "see the data module",
        "retraining": "no",
    }
    facts = facts if is_own(result) else dict.fromkeys(facts, "see the code")
    (folder / f"{system}_{implementation}.json").write_text(json.dumps(facts, indent=4) + "\n")
    revision = result.common("git_revision") or "unknown"
    versions = result.common("versions") or {}
    installs = "\n".join(f"- {name} {value}" for name, value in versions.items())
    _write_config(folder, result)
    code = f"../implementations/{implementation}"
    head = f"# {item.benchmark} on {system}\n\nCode: `{code}`"
    if not is_own(result):  # our scripts run our recipes only
        (folder / "README.md").write_text(f"{head}.\n")
        return
    (folder / "README.md").write_text(
        f"{head}, revision {revision}.\n\n"
        f"Run: `./setup.sh`, `DATA=/path ./init_datasets.sh`, `DATA=/path ./run_and_time.sh`.\n"
        f"Every setting of a run is in `config.yaml`.\n\n## Software\n\n{installs}\n"
    )
    recipe = f"python recipes/{item.benchmark}.py"
    head = f'#!/bin/bash\nset -eu\nhere="$(cd "$(dirname "$0")" && pwd)"\ncd "$here/{code}"\n'
    seed = "$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')"
    texts = (
        "pip install -e .\n",
        f'{recipe} prepare --data.root "$DATA"\n',
        f'{recipe} fit --config "$here/config.yaml" --data.root "$DATA" '
        f'--seed_everything "{seed}"\n',
    )
    for name, text in zip(SCRIPTS, texts, strict=True):
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
