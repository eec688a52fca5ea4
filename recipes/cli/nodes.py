"""Data on several nodes: each prepares its own, and all must end up with the same."""

from __future__ import annotations

import os
import shlex
from typing import Any

from recipes.cli.benchmark import Benchmark
from recipes.cli.data_check import check_data
from recipes.cli.doing import doing
from recipes.cli.parser import RecipeCLI
from recipes.cli.ranks import PREPARE_SECONDS, Ranks, ending_together, node
from recipes.cli.resume_line import script


def prepare_on_every_node(benchmark: Benchmark, cli: RecipeCLI, ranks: Ranks) -> None:
    """Prepare the data on one rank of every node, before any rank waits in a process group.

    Lightning's own call comes later and finds the data ready.

    Args:
        benchmark: The data sheet.
        cli: The parsed command line.
        ranks: All processes of the run.

    Raises:
        ValueError: On rank 0, a line per node whose data cannot be prepared or differs.
    """
    first = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0"
    advice = f"; on that node: {_prepare_command(benchmark, cli)}"
    with ending_together(ranks, advice, PREPARE_SECONDS):
        if first:
            with doing(f"preparing the {'demo ' * cli.demo}data"):
                cli.datamodule.prepare_data()
            if cli.command == "fit":
                check_data(benchmark, cli.datamodule, cli.division)
    numbers = _numbers(cli.datamodule) if first else {}
    expected = ranks.decided(lambda: {"node": node(), "numbers": numbers})
    with ending_together(ranks):
        if first and numbers != expected["numbers"]:
            raise ValueError(
                f"the data differs from that on {expected['node']}: {numbers} instead of "
                f"{expected['numbers']}; give every node the same data"
            )


def _numbers(datamodule: Any) -> dict[str, Any]:
    """Return how many samples there are: nodes that disagree would wait for each other for ever."""
    facts = datamodule.mllog_facts()
    return {name: facts[name] for name in ("train_samples", "eval_samples") if name in facts}


def _prepare_command(benchmark: Benchmark, cli: RecipeCLI) -> str:
    options = [o for o in cli.arguments.options if o.name.startswith("--data.")]
    words: list[Any] = [word for option in options for word in option.words]
    return f"python {shlex.quote(script(benchmark.name))} prepare {shlex.join(words)}".rstrip()
