"""``package``: write the official submission tree and run the official checkers on it."""

from __future__ import annotations

import argparse
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoring.commands.package_tree import (
    CODE_FOLDERS,
    SCRIPTS,
    check_place,
    checkout,
    git_output,
    is_ours,
    is_own,
    write_tree,
)
from scoring.commands.system_description import (
    describe,
    is_this_machine,
    load_overrides,
    status_words,
    unfilled,
)
from scoring.drawing.tables import print_json
from scoring.official.accepted import find_judged_sets
from scoring.official.checkers import package_verdict, trains_by_samples
from scoring.rules.judged_runs import CONVERGED
from scoring.rules.rounds import load_round
from scoring.rules.scores import Score, score
from scoring.runs.result_sets import ResultSet

AVAILABILITY = {
    "cloud": "available in the cloud: others rent it today, its software is released",
    "onprem": "available on premise: others bought it, its software is released",
    "preview": "preview: available within 180 days or by the next round, then resubmitted",
    "research": "research, development or internal (RDI): not available",
}


@dataclass
class Remark:
    """One remark on the package."""

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
        ValueError: If a name has other characters or the output directory is not empty.
    """
    _check_names(args.org, args.system)
    check_place(args.out, args.org, args.system)
    sets = find_judged_sets(args.folder, args.round)
    scored = [(result, score(result)) for result in sets]
    round_name = _one_round(scored)
    findings = _unfit(scored) + _foreign(scored, args.source)
    if any(finding.fatal for finding in findings):
        return _print(args, None, findings, [])
    overrides = load_overrides(args.system_json)
    tree = args.out / args.org
    division = scored[0][0].division or "open"
    description = describe(
        scored[0][0],
        org=args.org,
        system=args.system,
        division=division,
        status=status_words(args.availability, round_name),
        overrides=overrides,
    )
    write_tree(tree, scored, description, args)
    findings += _remarks(scored, description, args.availability)
    findings += _about_code(scored, args.source or checkout())
    findings += _private_names(tree)
    by_samples = any(trains_by_samples(item) for _, item in scored)
    good, messages = package_verdict(tree, round_name, by_samples=by_samples)
    # The checker leaves its scaling factor behind, and then warns of an unknown file.
    for leftover in tree.glob("results/*/*/scaling.json"):
        leftover.unlink()
    if not good:
        findings.append(Remark("the official package checker found errors", True))
    return _print(args, tree, findings, messages)


def _one_round(scored: Sequence[tuple[ResultSet, Score]]) -> str:
    names = sorted({item.round for _, item in scored})
    if len(names) > 1:
        raise ValueError(f"the results are of rounds {', '.join(names)}; pass --round or fewer")
    return names[0]


def _check_names(org: str, system: str) -> None:
    for what, name in (("--org", org), ("--system", system)):
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", name):
            raise ValueError(
                f"{what} is {name!r}; it becomes a directory name: letters, digits and _ . + - only"
            )


def _unfit(scored: Sequence[tuple[ResultSet, Score]]) -> list[Remark]:
    """List why these runs cannot make a package at all."""
    findings = []
    names = [item.benchmark for _, item in scored]
    for name in sorted({n for n in names if names.count(n) > 1}):
        findings.append(
            Remark(
                f"{names.count(name)} different results of {name} (other network, batch, device or "
                "division); pass the directory of one",
                True,
            )
        )
    divisions = {result.division for result, _ in scored}
    if len(divisions) > 1:
        findings.append(Remark(f"divisions are mixed: {sorted(map(str, divisions))}", True))
    for _, item in scored:
        head = f"{item.benchmark}: "
        if item.runs_missing:
            missing = f"{item.runs_found} runs of the {item.runs_required} needed"
            findings.append(Remark(head + missing, True))
        if item.not_converged > item.not_converged_allowed:
            findings.append(Remark(head + item.reasons[0], True))
            findings += [
                Remark(f"{head}{run.name}: {run.outcome}; {'; '.join(run.notes)}", False)
                for run in item.runs
                if run.counts and run.outcome != CONVERGED
            ]
        if item.demo and item.division == "closed":
            findings.append(Remark(head + "demo data is never the closed division", True))
    return findings


def _foreign(scored: Sequence[tuple[ResultSet, Score]], source: Path | None) -> list[Remark]:
    """List logs of other programs: their code has to come along, and ours is not it."""
    foreign = [item for result, item in scored if not is_own(result)]
    if not foreign:
        return []
    names = ", ".join(item.benchmark for item in foreign)
    if source is None or is_ours(source):
        text = f"{names}: not made by our recipes; pass the code that made the logs with --source"
        return [Remark(text, True)]
    scripts = ", ".join(SCRIPTS)
    return [Remark(f"{names}: add {scripts} of that code: ours run our recipes only", False)]


def _remarks(
    scored: Sequence[tuple[ResultSet, Score]], description: dict[str, Any], availability: str
) -> list[Remark]:
    """List what a person has to look at; only some of it is fatal."""
    elsewhere = "" if is_this_machine(scored[0][0]) else " (the runs were made on another machine)"
    findings = [
        Remark(
            f"system field {name!r} is required and empty: set it with --system_json{elsewhere}",
            True,
        )
        for name in unfilled(description)
    ]
    for result, item in scored:
        head = f"{item.benchmark}: "
        if item.demo:
            text = "a rehearsal only: demo data is not a public data set and cannot be submitted"
            findings.append(Remark(head + text, True))
        if item.runs_extra and not load_round(item.round).more_runs:
            text = f"{item.runs_found} runs found, the first {item.runs_required} to start are used"
            findings.append(Remark(head + text, False))
        then = item.rcp.get("then")
        if then and then.passed is False:
            findings.append(Remark(head + f"convergence test failed ({then.text})", True))
        findings += _logged_differently(result, description, availability)
    versions = scored[0][0].common("versions") or {}
    unreleased = [
        f"{n} {v}" for n, v in versions.items() if re.search(r"dev|\+git|a\d|rc\d", str(v))
    ]
    if availability in ("cloud", "onprem") and unreleased:
        text = f"available systems run released software only: {', '.join(unreleased)}"
        findings.append(Remark(text, True))
    return findings


def _private_names(tree: Path) -> list[Remark]:
    """List the files, but for the code, that name a home, this user or this machine."""
    names = [name for name in (os.environ.get("USER", ""), platform.node()) if len(name) > 4]
    words = "|".join(re.escape(name) for name in names)
    private = re.compile(r"/(?:home|Users|root)/[\w.-]+" + (rf"|\b(?:{words})\b" if words else ""))
    findings = []
    for path in sorted(tree.rglob("*")):
        if not path.is_file() or "implementations" in path.parts:
            continue
        if found := private.search(path.read_text(errors="replace")):
            text = f"{path.relative_to(tree)} names {found[0]}: a package is published"
            findings.append(Remark(text, False))
    return findings


def _about_code(scored: Sequence[tuple[ResultSet, Score]], source: Path) -> list[Remark]:
    """List where the included code is not what the runs ran."""
    findings = []
    here = git_output(source, "rev-parse", "HEAD")
    for result, item in scored:
        if not is_own(result):
            continue
        head = f"{item.benchmark}: "
        ran = sorted({str(r.fact("git_revision")) for r in result.runs if r.fact("git_revision")})
        if here and any(not here.startswith(r.removesuffix("-dirty")) for r in ran):
            text = f"the runs are of revision {', '.join(ran)}, the code included of {here[:12]}; "
            findings.append(Remark(head + text + "pass a checkout of it with --source", False))
        if any(r.endswith("-dirty") for r in ran):
            text = "the runs ran code with uncommitted changes: commit before you run"
            findings.append(Remark(head + text, False))
        nets = sorted({str(run.net_class) for run in result.runs if run.net_class})
        for net in (n for n in nets if not n.startswith(tuple(f"{f}." for f in CODE_FOLDERS))):
            text = f"the network {net} is not in the code included: add it, or name its release"
            findings.append(Remark(head + text, False))
        findings += [Remark(f"{head}the runs differ in {s}", False) for s in item.settings]
    return findings


def _logged_differently(
    result: ResultSet, description: dict[str, Any], availability: str
) -> list[Remark]:
    """List where the logs, which may not be edited, contradict the package."""
    findings = []
    wanted = {
        "submission_org": description["submitter"],
        "submission_status": availability,
        "submission_division": description["division"],
    }
    for key, value in wanted.items():
        logged = sorted({str(run.log.facts.get(key)) for run in result.runs} - {value})
        if logged:
            text = (
                f"{result.benchmark}: the logs say {key} {', '.join(logged)}, the package {value}"
            )
            findings.append(Remark(text, False))
    return findings


def _print(
    args: argparse.Namespace,
    tree: Path | None,
    findings: Sequence[Remark],
    messages: Sequence[str],
) -> int:
    good = tree is not None and not any(finding.fatal for finding in findings)
    if args.json:
        print_json(
            {
                "package": None if tree is None else str(tree),
                "passed": good,
                "findings": [vars(finding) for finding in findings],
                "official": list(messages),
            }
        )
        return 0 if good else 1
    for finding in findings:
        print(f"{'problem' if finding.fatal else 'note'}: {finding.text}")
    for line in messages:
        print(f"official checker: {line}")
    print(f"availability: {AVAILABILITY[args.availability]}")
    if tree is None:
        print("no package was written")
    else:
        verdict = "passes" if good else "does NOT pass"
        print(f"{tree} {verdict} the official package and system checks and ours")
    return 0 if good else 1
