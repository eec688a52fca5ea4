"""Asks the official checkers, which run in processes of their own.

Their output is parsed because their exit codes are unreliable.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoring.official.processes import ask
from scoring.rules.rounds import load_round
from scoring.rules.scores import Score
from scoring.runs.log_reader import read_log
from scoring.runs.progress import Progress

LONGEST_SECONDS = 1800
NO_ERRORS = "PACKAGE CHECKER FOUND NO ERRORS"
# Checking a log takes 1/30 s; each checker process needs 100 MB.
FILES_PER_PROCESS = 20
MOST_PROCESSES = 2
# A long list is asked about in parts, so that progress can be reported.
MOST_PER_REQUEST = 100


@dataclass(frozen=True)
class Compliance:
    """The compliance checker's verdict on one log."""

    valid: bool
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    crash: str | None
    """The checker's own exception; such a log is not valid."""


def compliance(jobs: Sequence[tuple[Path, str]]) -> list[Compliance]:
    """Run the official compliance checker.

    Args:
        jobs: Log files, each with a ruleset such as ``1.0.0``.

    Returns:
        One verdict per job, in order.
    """
    names = [(str(file), ruleset) for file, ruleset in jobs]
    count = max(1, min(os.cpu_count() or 1, MOST_PROCESSES, len(names) // FILES_PER_PROCESS))
    size = min(MOST_PER_REQUEST, -(-len(names) // count)) or 1
    parts = [names[i : i + size] for i in range(0, len(names), size)]

    def judge(part: list[tuple[str, str]]) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]]
        answers, _ = ask({"action": "compliance", "jobs": part}, LONGEST_SECONDS, keep=True)
        return answers

    verdicts: list[Compliance] = []
    progress = Progress("asking the official checker about logs", len(names))
    with progress, ThreadPoolExecutor(count) as pool:
        for answers in pool.map(judge, parts):
            verdicts += (_compliance(answer) for answer in answers)
            progress.show(len(verdicts))
    return verdicts


def _compliance(answer: dict[str, Any]) -> Compliance:
    errors, warnings = tuple(answer["errors"]), tuple(answer["warnings"])
    return Compliance(answer["valid"], errors, warnings, answer["crash"])


def trains_by_samples(item: Score) -> bool:
    """Return whether a score's bert logs count samples in ``train_samples``, not ``epoch_num``.

    Args:
        item: A score.

    Returns:
        True if the official tools need their ``bert_train_samples`` switch.
    """
    if item.benchmark != "bert" or not item.runs:
        return False
    evaluations = read_log(_log_path(item.runs[0].path)).evaluations
    return bool(evaluations) and (evaluations[-1].progress or 0) <= 1


def _log_path(path: str) -> Path:
    return Path(path, "result.txt") if Path(path).is_dir() else Path(path)


def second_opinion(item: Score) -> dict[str, Any]:
    """Let the official code score the same runs.

    Args:
        item: Our score.

    Returns:
        ``minutes`` (None if it gives no score) and ``rcp`` in words.
    """
    request = {
        "action": "second_opinion",
        "files": [str(_log_path(run.path)) for run in item.runs if run.counts],
        "benchmark": item.benchmark,
        "system": item.system.replace(os.sep, "_"),
        "scales": load_round(item.round).review_scales,
        "scaling_file": str(Path(item.path, "scaling.json")),
        "ruleset": load_round(item.round).checker_ruleset,
        "bert_train_samples": trains_by_samples(item),
    }
    with Progress(f"letting the official tools score {item.benchmark}"):
        answer, _ = ask(request, LONGEST_SECONDS)
    return {"minutes": answer["minutes"], "rcp": answer["rcp"]}


def package_verdict(folder: Path, round_name: str, *, by_samples: bool) -> tuple[bool, list[str]]:
    """Run the official package checker (and with it the system description and seed checkers).

    Args:
        folder: The submitter's directory, which holds ``systems`` and ``results``.
        round_name: Such as ``v1.0``.
        by_samples: Whether bert logs count samples in ``train_samples``.

    Returns:
        Whether it found no errors, and its warnings and errors, one line each.
    """
    request = {
        "action": "package",
        "folder": str(folder),
        "ruleset": load_round(round_name).checker_ruleset,
        "bert_train_samples": by_samples,
    }
    with Progress("asking the official package checker"):
        answer, text = ask(request, LONGEST_SECONDS)
    if answer["crash"]:
        return False, [f"the package checker crashed: {answer['crash']}"]
    messages = [
        " ".join(line.split())
        for line in text.splitlines()
        if line.startswith(("WARNING", "ERROR")) and line.split()[1:]
    ]
    return NO_ERRORS in text, messages
