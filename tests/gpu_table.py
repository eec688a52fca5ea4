"""The table at the end of ``python -m tests.gpu_check``, from the figures that its steps left."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recipes.speed.published import percent

HEADER = (
    "recipe", "device", "precision", "samples/s", "ms/step", "p90", "of best", "of limit", "MFU",
    "GiB", "scaled",
)  # fmt: skip
VARIANT_HEADER = ("recipe", "variant", "samples/s", "ms/step", "loss error", "gradient", "verdict")


def table(folder: Path, outcomes: Sequence[Any]) -> tuple[str, bool]:
    """Return the report, and whether all figures in it are right.

    Args:
        folder: With ``speed/*.json``, ``variants/*.json`` and, of several devices, ``ranks.json``.
        outcomes: How the steps ended.
    """
    speeds, compared = read(folder / "speed"), read(folder / "variants")
    blocks = [columns([HEADER, *(speed_row(each) for each in speeds)])]
    rows = [row for each in compared for row in variant_rows(each)]
    if rows:
        blocks.append(columns([VARIANT_HEADER, *rows]))
    ranks = list(rank_lines(folder / "ranks.json"))
    if ranks:
        blocks.append("\n".join(ranks))
    if ended := [each for each in outcomes if each.status != "passed"]:
        blocks.append("\n".join(f"{e.step.name}: {e.status}; {e.last_line}" for e in ended))
    wrong = any(row[-1].startswith("WRONG") for row in rows) or any("DIFFER" in r for r in ranks)
    return "\n\n".join(blocks) + "\n", not wrong


def read(folder: Path) -> list[dict[str, Any]]:
    """Read every file of a folder; one that a stopped step left unfinished is skipped."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(json.loads(path.read_text()))
        except ValueError:
            continue
    return found


def speed_row(facts: Mapping[str, Any]) -> list[str]:
    """Return one recipe's row; figures that a stopped step did not reach are ``-``."""
    figures, published = facts.get("figures") or {}, facts.get("published") or {}
    own = (facts.get("own") or {}).get("games_per_second")
    rate = number(figures.get("samples_per_second"))
    return [
        str(facts.get("benchmark", "-")),
        str(facts.get("device", "-")),
        str(facts.get("precision", "-")),
        f"{number(own)} games" if own is not None else rate,
        number(figures.get("ms_per_step_median")),
        number(figures.get("ms_per_step_p90")),
        share(published.get("share_of_best")),
        share(published.get("share_of_limit")),
        share(figures.get("mfu")),
        number(figures.get("peak_memory_gib")),
        "; ".join(facts.get("scaled") or []) or "no",
    ]


def variant_rows(facts: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield a row per variant of a recipe."""
    for each in facts.get("variants") or []:
        # None: the network amplifies rounding too much to tell.
        verdict = {True: "right", None: "unclear"}.get(each.get("right", False), "WRONG")
        if each.get("error"):
            verdict = f"did not run: {each['error']}"
        yield [
            str(facts.get("benchmark", "-")),
            str(each.get("name", "-")),
            *(number(each.get(key)) for key in ("samples_per_second", "ms_per_step_median")),
            *(number(each.get(key)) for key in ("loss_error", "gradient_error")),
            verdict,
        ]


def rank_lines(path: Path) -> Iterator[str]:
    """Yield a line per strategy and one on scaling, if several devices were compared."""
    if not path.is_file():
        return
    facts = json.loads(path.read_text())
    for name, loss in facts.get("losses", {}).items():
        same = "equals one rank" if facts["equal"][name] else "DIFFERS FROM ONE RANK"
        yield f"{facts['devices']} ranks, {name}: evaluation loss {loss:.6f}, {same}"
    rates = facts.get("samples_per_second")
    if rates:
        yield (
            f"scaling: {number(rates['one'])} images/s on one rank, {number(rates['all'])} on "
            f"{facts['devices']}, efficiency {share(facts['efficiency'])}"
        )


def number(value: Any) -> str:
    return "-" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def share(value: Any) -> str:
    return "-" if value is None else percent(value)


def columns(rows: Iterable[Sequence[str]]) -> str:
    """Align rows of text in columns."""
    rows = [list(row) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
