"""``package``: the official submission tree, then the official checkers on it."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoring.commands.system_description import describe, is_this_machine, load_overrides, unfilled
from scoring.official.accepted import find_judged_sets
from scoring.official.checkers import package_verdict, trains_by_samples
from scoring.rules.rounds import load_round
from scoring.rules.scores import CONVERGED, Score, score
from scoring.runs.result_sets import ResultSet
from scoring.runs.settings import read_config

IMPLEMENTATION = "finishline"
CODE_FOLDERS = ("recipes", "modules", "datamodules", "callbacks")
# What installing the code needs beside it.
CODE_FILES = ("pyproject.toml", "README.md", "LICENSE")
# Settings that belong to one run or one machine: the scripts give them, or the default will do.
NOT_PACKED = ("seed_everything", "output_root", "ckpt_path")
DATA_NOT_PACKED = ("root", "prepared_dir")
AVAILABILITY = {
    "cloud": "available in the cloud: others rent it today, its software is released",
    "onprem": "available on premise: others bought it, its software is released",
    "preview": "preview: available within 180 days or by the next round, then resubmitted",
    "research": "research, development or internal (RDI): not available",
}


@dataclass
class Finding:
    """One thing to know about the package."""

    text: str
    fatal: bool
    """Whether it keeps the package from being a submission."""


def run(args: argparse.Namespace) -> int:
    """Write the tree and check it.

    Args:
        args: The arguments of ``package`` (see ``scoring.cli``).

    Returns:
        0 if the official checkers find no errors and nothing of ours is fatal, else 1.

    Raises:
        ValueError: If names are unfit or the output folder is not empty.
    """
    from scoring.cli import print_json

    _check_names(args.org, args.system)
    if args.out.exists() and any(args.out.iterdir()):
        raise ValueError(f"{args.out} is not empty; give a new folder")
    rules = load_round(args.round)
    sets = find_judged_sets(args.folder, rules)
    scored = [(found, score(found, rules)) for found in sets]
    findings = _unfit(scored)
    if any(finding.fatal for finding in findings):
        return _tell(args, None, findings, [], print_json)
    overrides = load_overrides(args.system_json)
    tree = args.out / args.org
    division = scored[0][0].division or "open"
    description = describe(
        scored[0][0],
        org=args.org,
        system=args.system,
        division=division,
        availability=args.availability,
        overrides=overrides,
    )
    _write_tree(tree, scored, description, args)
    findings += _remarks(scored, description, args.availability)
    findings += _about_code(scored, args.source or _checkout())
    by_samples = any(trains_by_samples(item) for _, item in scored)
    good, told = package_verdict(tree, args.round, by_samples=by_samples)
    # The checker leaves its scaling factor behind, and then warns of an unknown file.
    for leftover in tree.glob("results/*/*/scaling.json"):
        leftover.unlink()
    if not good:
        findings.append(Finding("the official package checker found errors", True))
    return _tell(args, tree, findings, told, print_json)


def _check_names(org: str, system: str) -> None:
    for what, name in (("--org", org), ("--system", system)):
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", name):
            raise ValueError(
                f"{what} is {name!r}; letters, digits and _ . + - only (it becomes a folder)"
            )


def _unfit(scored: Sequence[tuple[ResultSet, Score]]) -> list[Finding]:
    """Why these runs cannot make a package at all."""
    findings = []
    names = [item.benchmark for _, item in scored]
    for name in sorted({n for n in names if names.count(n) > 1}):
        findings.append(
            Finding(
                f"{names.count(name)} different results of {name} (other network, batch, device or "
                "division); give the folder of one",
                True,
            )
        )
    divisions = {found.division for found, _ in scored}
    if len(divisions) > 1:
        findings.append(Finding(f"divisions are mixed: {sorted(map(str, divisions))}", True))
    for _, item in scored:
        head = f"{item.benchmark}: "
        if item.runs_missing:
            missing = f"{item.runs_found} runs of the {item.runs_required} needed"
            findings.append(Finding(head + missing, True))
        if item.not_converged > item.not_converged_allowed:
            findings.append(Finding(head + item.reasons[0], True))
            findings += [
                Finding(f"{head}{run.name}: {run.outcome}; {'; '.join(run.notes)}", False)
                for run in item.runs
                if run.counts and run.outcome != CONVERGED
            ]
        if item.demo and item.division == "closed":
            findings.append(Finding(head + "demo data is never the closed division", True))
    return findings


def _remarks(
    scored: Sequence[tuple[ResultSet, Score]], description: dict[str, Any], availability: str
) -> list[Finding]:
    """What a person has to look at; only some of it is fatal."""
    elsewhere = "" if is_this_machine(scored[0][0]) else " (the runs are of another machine)"
    findings = [
        Finding(
            f"system field {name!r} is required and empty: set it with --system_json{elsewhere}",
            True,
        )
        for name in unfilled(description)
    ]
    for found, item in scored:
        head = f"{item.benchmark}: "
        if item.demo:
            text = "a rehearsal only: generated demo data is no public data set and not submittable"
            findings.append(Finding(head + text, True))
        if item.runs_extra:
            text = (
                f"{item.runs_found} runs found, the first {item.runs_required} by start are taken"
            )
            findings.append(Finding(head + text, False))
        then = item.rcp.get("then")
        if then and then.passed is False:
            findings.append(Finding(head + f"convergence test failed ({then.text})", True))
        findings += _said_otherwise(found, description, availability)
    versions = scored[0][0].common("versions") or {}
    unreleased = [
        f"{n} {v}" for n, v in versions.items() if re.search(r"dev|\+git|a\d|rc\d", str(v))
    ]
    if availability in ("cloud", "onprem") and unreleased:
        text = f"available systems run released software only: {', '.join(unreleased)}"
        findings.append(Finding(text, True))
    return findings


def _checkout() -> Path:
    return Path(__file__).resolve().parents[2]


def _about_code(scored: Sequence[tuple[ResultSet, Score]], source: Path) -> list[Finding]:
    """Where the code that goes along is not what the runs ran."""
    findings = []
    here = _git(source, "rev-parse", "HEAD")
    for found, item in scored:
        head = f"{item.benchmark}: "
        ran = sorted({str(r.fact("git_revision")) for r in found.runs if r.fact("git_revision")})
        if here and any(not here.startswith(r.removesuffix("-dirty")) for r in ran):
            text = f"the runs are of revision {', '.join(ran)}, the code included of {here[:12]}; "
            findings.append(Finding(head + text + "check that one out or name it: --source", False))
        if any(r.endswith("-dirty") for r in ran):
            text = "the runs ran code with changes that no revision holds: commit, then run"
            findings.append(Finding(head + text, False))
        nets = sorted({str(run.fact("net")) for run in found.runs if run.fact("net")})
        for net in (n for n in nets if not n.startswith(tuple(f"{f}." for f in CODE_FOLDERS))):
            text = f"the network {net} is none of the code included: add it, or name its release"
            findings.append(Finding(head + text, False))
        findings += [Finding(f"{head}the runs differ in {s}", False) for s in item.settings]
    return findings


def _said_otherwise(
    found: ResultSet, description: dict[str, Any], availability: str
) -> list[Finding]:
    """Where the logs, which may not be edited, say something else than the package."""
    findings = []
    wanted = {
        "submission_org": description["submitter"],
        "submission_status": availability,
        "submission_division": description["division"],
    }
    for key, value in wanted.items():
        said = sorted({str(run.log.facts.get(key)) for run in found.runs} - {value})
        if said:
            text = f"{found.benchmark}: the logs say {key} {', '.join(said)}, the package {value}"
            findings.append(Finding(text, False))
    return findings


def _write_tree(
    tree: Path,
    scored: Sequence[tuple[ResultSet, Score]],
    description: dict[str, Any],
    args: argparse.Namespace,
) -> None:
    """Write everything beside its place, then move it there, so no half tree is left behind."""
    args.out.mkdir(parents=True, exist_ok=True)
    building = tree.with_name(f".{tree.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    (building / "systems").mkdir(parents=True)
    sheet = json.dumps(description, indent=4) + "\n"
    (building / "systems" / f"{args.system}.json").write_text(sheet)
    source = args.source or _checkout()
    for found, item in scored:
        _write_results(building / "results" / args.system / item.benchmark, found, item)
        home = building / "benchmarks" / item.benchmark
        _copy_code(source, home / "implementations" / IMPLEMENTATION, item.benchmark)
        _write_instructions(home / args.system, found, item, args.system)
    building.replace(tree)


def _write_results(folder: Path, found: ResultSet, item: Score) -> None:
    folder.mkdir(parents=True)
    counted = {judged.path for judged in item.runs if judged.counts}
    chosen = [
        run for run in found.runs if str(run.folder if run.is_own else run.log.path) in counted
    ][: item.runs_required]
    for number, run in enumerate(chosen):
        shutil.copyfile(run.log.path, folder / f"result_{number}.txt")


def _copy_code(source: Path, target: Path, benchmark: str) -> None:
    """Copy the code of one benchmark and all that is shared; other benchmarks' recipes stay out."""
    listed = _tracked(source)
    for relative in listed:
        other = relative.parts[0] == "recipes" and _is_other_recipe(relative, benchmark)
        if not other:
            (target / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / relative, target / relative)


def _is_other_recipe(relative: Path, benchmark: str) -> bool:
    """Whether a file is another benchmark's recipe or preset; the command line is everyone's."""
    if relative.parts[1] == "cli" or relative.name == "__init__.py":
        return False
    name = relative.parts[2] if relative.parts[1] == "presets" else relative.stem
    return name != benchmark


def _tracked(source: Path) -> list[Path]:
    """Code files of a checkout: those git knows, or all of them where there is no git."""
    told = _git(source, "ls-files", "--", *CODE_FOLDERS, *CODE_FILES)
    names = [Path(line) for line in told.splitlines()]
    if not names:
        names = [p.relative_to(source) for n in CODE_FOLDERS for p in (source / n).rglob("*")]
        names += [Path(name) for name in CODE_FILES]
    return sorted(n for n in names if (source / n).is_file() and "__pycache__" not in n.parts)


def _git(source: Path, *arguments: str) -> str:
    """What git says of a checkout; nothing where there is no git or no checkout."""
    command = ["git", "-C", str(source), *arguments]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return told.stdout.strip() if told.returncode == 0 else ""


def _write_instructions(folder: Path, found: ResultSet, item: Score, system: str) -> None:
    """The four files that the rules want beside the code, for this system."""
    folder.mkdir(parents=True)
    facts = {
        "starting_weights_filename": "see the recipe",
        "weight_transformations": "none",
        "weight_data_types": str(found.common("precision") or "unknown"),
        "input_data_types": "see the data module",
        "retraining": "no",
    }
    (folder / f"{system}_{IMPLEMENTATION}.json").write_text(json.dumps(facts, indent=4) + "\n")
    revision = found.common("git_revision") or "unknown"
    versions = found.common("versions") or {}
    installs = "\n".join(f"- {name} {value}" for name, value in versions.items())
    _write_config(folder, found)
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


def _write_config(folder: Path, found: ResultSet) -> None:
    """The settings of a run without its seed and without the paths of the machine it ran on."""
    import yaml

    config = next(filter(None, map(read_config, found.runs)), None)
    if config is None:
        return
    kept = {key: value for key, value in config.items() if key not in NOT_PACKED}
    if isinstance(kept.get("data"), dict):
        kept["data"] = {k: v for k, v in kept["data"].items() if k not in DATA_NOT_PACKED}
    (folder / "config.yaml").write_text(yaml.safe_dump(kept, sort_keys=False))


def _tell(
    args: argparse.Namespace,
    tree: Path | None,
    findings: Sequence[Finding],
    told: Sequence[str],
    print_json: Any,
) -> int:
    good = tree is not None and not any(finding.fatal for finding in findings)
    if args.json:
        print_json(
            {
                "package": None if tree is None else str(tree),
                "passed": good,
                "findings": [vars(finding) for finding in findings],
                "official": list(told),
            }
        )
        return 0 if good else 1
    for finding in findings:
        print(f"{'problem' if finding.fatal else 'note'}: {finding.text}")
    for line in told:
        print(f"official checker: {line}")
    print(f"availability: {AVAILABILITY[args.availability]}")
    if tree is None:
        print("no package was written")
    else:
        verdict = "passes" if good else "does NOT pass"
        print(f"{tree} {verdict} the official package and system checks and ours")
    return 0 if good else 1
