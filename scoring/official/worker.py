"""Runs the official checkers in a separate process: a line of JSON in, a line out.

The tools keep state between files, print anywhere, crash on odd input and exit 0 on failure, so
they are isolated: only ``scoring.official.processes`` starts this file.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import tempfile
from functools import cache, partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any


def compliance(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Judge each (file, ruleset) of ``jobs``; ``crash`` is set if the checker failed itself."""
    from mlperf_logging.compliance_checker import mlp_compliance

    answers = []
    for path, ruleset in request["jobs"]:
        config = f"training_{ruleset}/common.yaml"
        # A crash leaves a rule file in the queue, which would be applied to the next log.
        mlp_compliance.enqueued_configs.clear()
        checker = mlp_compliance.make_checker("training", ruleset, False, False)
        crash = None
        try:
            valid = mlp_compliance.main(path, config, checker)[0]
        except Exception as error:  # the checker fails in many ways on odd logs
            valid, crash = False, f"{type(error).__name__}: {error}"
        errors = [*checker.overwritable.values(), *checker.not_overwritable]
        warnings = list(checker.warnings.values())
        answers.append(
            {"valid": bool(valid), "errors": errors, "warnings": warnings, "crash": crash}
        )
    return answers


def _read_rules_once(checker: Any) -> None:
    """Cache parsed and compiled rules: three quarters of the checker's time are spent on them."""
    import yaml

    if not isinstance(checker.yaml, ModuleType):  # an earlier request has done it
        return
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    parsed: dict[str, Any] = {}

    def load(file: Any, Loader: Any) -> Any:
        if file.name not in parsed:
            parsed[file.name] = yaml.load(file, Loader=loader)
        return parsed[file.name]

    checker.yaml = SimpleNamespace(load=load, BaseLoader=yaml.BaseLoader)
    compiled = cache(partial(compile, filename="<rule>"))

    def run(source: str, *scopes: Any, mode: str) -> Any:
        return eval(compiled(source, mode=mode), *scopes)

    checker.eval = partial(run, mode="eval")
    checker.exec = partial(run, mode="exec")


def _read_long_lines_fast() -> None:
    """Replace a regex of the log parsers that takes half an hour for a line of a megabyte."""
    from mlperf_logging.compliance_checker import mlp_parser

    for name, module in vars(mlp_parser).items():
        if name.startswith("ruleset_"):
            module.re = SimpleNamespace(sub=_after_last)


def _after_last(pattern: str, token: str, line: str) -> str:
    """Do what the tools' ``re.sub(".*TOKEN", TOKEN, line)`` does."""
    assert pattern == f".*{token}"
    head, found, tail = line.rpartition(token)
    return found + tail if found else tail


def _mend_rcp_checker() -> None:
    """Add dlrm to its table of runs, without which it crashes, and replace its regex likewise."""
    # Imports scipy.stats, which takes a second: not for the compliance checker.
    from mlperf_logging.rcp_checker import rcp_checker

    rcp_checker.submission_runs["training"]["dlrm"] = 5
    rcp_checker.re = SimpleNamespace(sub=_after_last)


def _published_scaling(request: dict[str, Any]) -> Path | None:
    path = Path(request["scaling_file"])
    return path.resolve() if request["scales"] and path.is_file() else None


def second_opinion(request: dict[str, Any]) -> dict[str, Any]:
    """Score and RCP-test one result set with the official code."""
    from mlperf_logging.rcp_checker import rcp_checker
    from mlperf_logging.result_summarizer import result_summarizer

    _mend_rcp_checker()
    ruleset, benchmark = request["ruleset"], request["benchmark"]
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root, "org", "results", request["system"], benchmark)
        folder.mkdir(parents=True)
        for number, path in enumerate(request["files"]):
            (folder / f"result_{number}.txt").symlink_to(Path(path).resolve())
        if item := _published_scaling(request):
            (folder / "scaling.json").symlink_to(item)
        try:
            minutes = result_summarizer._compute_strong_score_standalone(
                benchmark, request["system"], False, str(folder), "training", ruleset
            )[0]
        except Exception as error:
            return {"minutes": None, "rcp": f"summarizer crashed: {error!r}"}
        try:
            passed, words, _ = rcp_checker.check_directory(
                str(folder),
                "training",
                ruleset,
                False,
                request["bert_train_samples"],
                rcp_pass="pruned_rcps",
            )
        except Exception as error:
            return {"minutes": minutes, "rcp": f"not available ({error!r})"}
    return {"minutes": minutes, "rcp": f"{'pass' if passed else 'FAIL'}, {words.strip()}"}


def package(request: dict[str, Any]) -> dict[str, Any]:
    """Run the package checker, which runs the others; the verdict is in the logged text."""
    from mlperf_logging.package_checker import package_checker

    _mend_rcp_checker()
    folder, ruleset = request["folder"], request["ruleset"]
    try:
        package_checker.check_training_package(
            folder,
            "training",
            ruleset,
            False,
            False,
            False,
            request["bert_train_samples"],
            False,
            "the report",
        )
    except Exception as error:
        return {"crash": repr(error)}
    return {"crash": None}


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """Return ``answer`` and the ``text`` that the tools printed and logged."""
    actions = {"compliance": compliance, "second_opinion": second_opinion, "package": package}
    text = io.StringIO()
    logging.basicConfig(
        stream=text, level=logging.INFO, format="%(levelname)s %(message)s", force=True
    )
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        from mlperf_logging.compliance_checker import mlp_compliance

        _read_long_lines_fast()
        _read_rules_once(mlp_compliance)
        answer = actions[request["action"]](request)
    return {"answer": answer, "text": text.getvalue()}


def main() -> None:
    """Answer each request on stdin, a line of JSON, with a line of JSON on stdout."""
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
