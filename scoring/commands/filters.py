"""Filters on results, published or read from logs: accelerator, count, status, framework ..."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass, fields

from scoring.published import AVAILABLE, PublishedResult, status_word
from scoring.runs.result_sets import ResultSet

STATUSES = ("onprem", "cloud", "available", "preview", "research")


@dataclass(frozen=True)
class Facts:
    """The facts that filters apply to, of one result."""

    benchmark: str
    submitter: str
    division: str
    status: str
    accelerator: str
    accelerators: int | None
    framework: str


@dataclass(frozen=True)
class Filters:
    """The chosen values; None lets every result pass."""

    benchmark: str | None = None
    submitter: str | None = None
    division: str | None = None
    status: str | None = None
    accelerator: str | None = None
    count: int | None = None
    framework: str | None = None

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) is not None for field in fields(self))

    def __call__(self, result: PublishedResult | ResultSet) -> bool:
        """Return whether a result passes every filter that is set."""
        facts = facts_of_logs(result) if isinstance(result, ResultSet) else facts_of_row(result)
        tests: list[tuple[str | int | None, Callable[[], bool]]] = [
            (self.benchmark, lambda: facts.benchmark == self.benchmark),
            (self.submitter, lambda: facts.submitter.lower() == str(self.submitter).lower()),
            (self.division, lambda: facts.division == self.division),
            (self.status, lambda: has_status(facts.status, str(self.status))),
            (self.accelerator, lambda: names_model(facts.accelerator, str(self.accelerator))),
            (self.count, lambda: facts.accelerators == self.count),
            (self.framework, lambda: str(self.framework).lower() in facts.framework.lower()),
        ]
        return all(wanted is None or test() for wanted, test in tests)

    def words(self) -> str:
        """Describe the filters in a few words, for titles; empty without any."""
        model = self.accelerator
        if self.count is not None:
            model = f"{self.count} x {model}" if model else f"{self.count} accelerators"
        parts = [self.benchmark, model, self.submitter, self.status, self.framework]
        parts += [f"{self.division} division" if self.division else None]
        return ", ".join(part for part in parts if part)


def add_filters(command: argparse.ArgumentParser) -> None:
    """Add one flag per filter to a command."""
    group = command.add_argument_group("filters", "Leave out results that differ.")
    group.add_argument("--accelerator", metavar="MODEL", help="such as H200 or A100-SXM")
    group.add_argument("--count", type=int, metavar="N", help="accelerators over all nodes")
    group.add_argument("--status", choices=STATUSES, help="available: onprem or cloud")
    group.add_argument("--framework", metavar="NAME", help="part of its name, such as pytorch")
    group.add_argument("--division", choices=["closed", "open"])
    group.add_argument("--submitter", metavar="ORG")
    group.add_argument("--benchmark", metavar="NAME")


def filters_of(args: argparse.Namespace) -> Filters:
    """Read the flags of ``add_filters``."""
    return Filters(**{field.name: getattr(args, field.name, None) for field in fields(Filters)})


def facts_of_row(row: PublishedResult) -> Facts:
    """Return the facts of a row of the table."""
    return Facts(
        row.benchmark,
        row.submitter,
        row.division,
        row.status,
        row.accelerator,
        row.accelerators,
        row.framework,
    )


def facts_of_logs(result: ResultSet) -> Facts:
    """Return the facts of a result read from logs: by its system description, else its records."""
    sheet = result.description or {}
    system, versions = result.common("system") or {}, result.common("versions") or {}
    model = sheet.get("accelerator_model_name") or system.get("accelerator")
    framework = sheet.get("framework") or " ".join(f"{k} {v}" for k, v in versions.items())
    logged = result.runs[0].log.facts.get("submission_status", "") if result.runs else ""
    return Facts(
        result.benchmark,
        result.submitter,
        result.division or "",
        status_word(str(sheet.get("status") or logged)),
        str(model or ""),
        result.accelerators,
        # A framework of ours is PyTorch, whose package is called torch.
        framework.replace("torch ", "pytorch ", 1) if result.is_own else str(framework),
    )


def has_status(status: str, wanted: str) -> bool:
    """Return whether a status is the wanted one; ``available`` covers onprem and cloud."""
    return status == wanted or (wanted == "available" and status in AVAILABLE)


def names_model(model: str, wanted: str) -> bool:
    """Return whether a model name has all words of the wanted one: ``L4`` is not ``L40``.

    A word without a number matches one with it: ``SXM`` is also ``SXM4``.
    """
    words = _words(model)
    families = {word.rstrip("0123456789") for word in words}
    return all(part in words or (part.isalpha() and part in families) for part in _words(wanted))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())
