"""Rows of ``docs/speed.md`` from the files of ``speed --synthetic --json``.

python -m tests.speed_rows FILE ...      print the tables of steps and of variants
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recipes.speed.published import percent

HEAD = (
    "recipe", "device", "flags", "revision", "batch", "samples/s", "ms/step (median, p90)", "ratio",
    "model FLOP/s", "evaluation", "of this device's limit", "of the published best",
)  # fmt: skip
VARIANT_HEAD = ("recipe", "variant", "samples/s", "loss error", "gradient error", "gate")
VERDICTS = {True: "right", False: "wrong", None: "unclear"}


def row(content: Mapping[str, Any]) -> list[str]:
    """Return the cells of one measurement."""
    figures, published = content["figures"], content.get("published", {})
    scaled = (line.removeprefix("batch size ") for line in content["scaled"])
    games = content.get("own", {}).get("games_per_second")
    evaluation, best = content.get("evaluation"), published.get("share_of_best")
    flops = figures["model_flops_per_second"]
    return [
        content["benchmark"],
        content["device"],
        f"`{' '.join(flags(content['command']))}`",
        str(content["revision"])[:7],
        "; ".join(line for line in scaled if not line.startswith("steps")) or "closed",
        number(figures["samples_per_second"]) + (f"; {number(games)} games/s" if games else ""),
        f"{figures['ms_per_step_median']:,.1f}, {figures['ms_per_step_p90']:,.1f}",
        f"{figures['lightning_over_plain']:.2f}",
        "-" if flops is None else f"{flops / 1e9:,.1f} G",
        f"{number(evaluation['ms_per_sample'])} ms/{evaluation['sample']}" if evaluation else "-",
        share(published.get("share_of_limit")),
        f"{share(best)} of {published['best']:,.9g} ({published['accelerator']})" if best else "-",
    ]


def flags(command: Sequence[str]) -> Iterable[str]:
    """Yield a command's flags but those that only say where figures go."""
    words = iter(command[1:])
    for word in words:
        if word == "--json":
            next(words)
        elif word != "--profile":
            yield word


def variant_rows(content: Mapping[str, Any]) -> Iterable[list[str]]:
    """Yield the cells of each variant."""
    for one in content.get("variants", []):
        rate, *errors = (one[k] for k in ("samples_per_second", "loss_error", "gradient_error"))
        yield [
            content["benchmark"],
            one["name"],
            "-" if rate is None else number(rate),
            *("-" if error is None else f"{error:.1e}" for error in errors),
            "failed" if one["error"] else VERDICTS[one["right"]],
        ]


def number(value: float) -> str:
    """Write a number with four digits, or all of its whole ones."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def share(value: float | None) -> str:
    return "-" if value is None else percent(value)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(paths: Sequence[str]) -> None:
    contents = [json.loads(Path(path).read_text()) for path in paths]
    contents = [content for content in contents if "figures" in content]  # not of stopped commands
    print(table(HEAD, map(row, contents)))
    if variants := [line for content in contents for line in variant_rows(content)]:
        print(f"\n{table(VARIANT_HEAD, variants)}")


if __name__ == "__main__":
    main(sys.argv[1:])
