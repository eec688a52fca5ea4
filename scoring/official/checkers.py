"""The official checkers, asked in a subprocess and believed by their text, not their exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from scoring.rules.rounds import load_round
from scoring.rules.scores import Score

NO_ERRORS = "PACKAGE CHECKER FOUND NO ERRORS"
LONGEST_SECONDS = 1800
# Checking a log takes a thirtieth of a second, a checker that starts takes 100 MB.
FILES_PER_PROCESS = 20
MOST_PROCESSES = 2


@dataclass(frozen=True)
class Compliance:
    """The compliance checker's verdict on one log."""

    valid: bool
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    crash: str | None
    """What the checker itself died of; such a log is not valid."""


def ask(request: dict[str, Any]) -> tuple[Any, str]:
    """Send one request to the official code.

    Args:
        request: ``action`` and what that action needs (see ``scoring/official/worker.py``).

    Returns:
        Its answer, and everything the tools logged.

    Raises:
        ValueError: If the official package is not installed or its process died.
    """
    here = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH")
    paths = os.pathsep.join([here, inherited] if inherited else [here])
    try:
        done = subprocess.run(
            [sys.executable, "-m", "scoring.official.worker"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=LONGEST_SECONDS,
            env={**os.environ, "PYTHONPATH": paths},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"the official checker took longer than {LONGEST_SECONDS} s; give it fewer logs"
        ) from None
    try:
        reply = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"the official checker could not be run: {last}") from None
    return reply["answer"], reply["text"]


def compliance(files: Sequence[Path], ruleset: str) -> list[Compliance]:
    """Run the official compliance checker.

    Args:
        files: Log files.
        ruleset: Such as ``1.0.0``.

    Returns:
        One verdict per file, in order.
    """
    names = [str(file) for file in files]
    count = max(1, min(os.cpu_count() or 1, MOST_PROCESSES, len(names) // FILES_PER_PROCESS))
    parts = [names[i::count] for i in range(count)] if names else []

    def judge(part: list[str]) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]]
        answers, _ = ask({"action": "compliance", "files": part, "ruleset": ruleset})
        return answers

    with ThreadPoolExecutor(max(1, len(parts))) as pool:
        told = dict(zip(chain(*parts), chain(*pool.map(judge, parts)), strict=True))
    return [
        Compliance(a["valid"], tuple(a["errors"]), tuple(a["warnings"]), a["crash"])
        for a in (told[name] for name in names)
    ]


def trains_by_samples(item: Score) -> bool:
    """Whether bert logs name their samples in ``train_samples`` instead of ``epoch_num``.

    Args:
        item: A score.

    Returns:
        True if the official tools need their ``bert_train_samples`` switch.
    """
    from scoring.runs.logs import read_log

    if item.benchmark != "bert" or not item.runs:
        return False
    evaluations = read_log(_log_path(item.runs[0].path)).evaluations
    return bool(evaluations) and (evaluations[-1].progress or 0) <= 1


def _log_path(path: str) -> Path:
    return Path(path, "result.txt") if Path(path).is_dir() else Path(path)


def second_opinion(item: Score, ruleset: str) -> dict[str, Any]:
    """Have the official code score the same runs.

    Args:
        item: Our score.
        ruleset: Such as ``1.0.0``.

    Returns:
        ``minutes`` (None if it gives no score) and ``rcp`` in words.
    """
    request = {
        "action": "second_opinion",
        "files": [str(_log_path(run.path)) for run in item.runs if run.counts],
        "benchmark": item.benchmark,
        "system": item.system.replace(os.sep, "_"),
        "ruleset": ruleset,
        "bert_train_samples": trains_by_samples(item),
    }
    answer, _ = ask(request)
    return {"minutes": answer["minutes"], "rcp": answer["rcp"]}


def package_verdict(folder: Path, round_name: str, *, by_samples: bool) -> tuple[bool, list[str]]:
    """Run the official package checker (and with it the system description and seed checkers).

    Args:
        folder: The submitter's folder, which holds ``systems`` and ``results``.
        round_name: Such as ``v1.0``.
        by_samples: Whether bert logs name their samples in ``train_samples``.

    Returns:
        Whether it found no errors, and its warnings and errors, one line each.
    """
    request = {
        "action": "package",
        "folder": str(folder),
        "ruleset": load_round(round_name).checker_ruleset,
        "bert_train_samples": by_samples,
    }
    answer, text = ask(request)
    if answer["crash"]:
        return False, [f"the package checker crashed: {answer['crash']}"]
    told = [
        " ".join(line.split())
        for line in text.splitlines()
        if line.startswith(("WARNING", "ERROR")) and line.split()[1:]
    ]
    return NO_ERRORS in text, told
