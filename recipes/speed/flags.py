"""The command line of ``speed``: a recipe's flags and its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from recipes.cli.arguments import Arguments
from recipes.cli.parser import RecipeCLI
from recipes.cli.usage import UsageError
from recipes.speed.memory import check_weights_fit, share_for_tables
from recipes.speed.variants import Variant, parse_variants

FEWEST_STEPS = 2


class SpeedCLI(RecipeCLI):
    """A recipe's command line whose data may be synthetic.

    Args:
        benchmark: The data sheet.
        args: Arguments after ``speed``.
        build: Build module and data module; without, only the flags are parsed.

    Attributes:
        scaled: What was scaled to the memory of the machine, one line each.
        variants: Those of ``--variants``, the reference first; empty without.
    """

    def __init__(self, benchmark: Any, args: Arguments | list[str], *, build: bool = True) -> None:
        self.scaled: list[str] = []
        self.variants: list[Variant] = []
        super().__init__(benchmark, "speed", args, build=build)

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the flags that belong to no group."""
        super().add_default_arguments_to_parser(parser)
        add: Any = parser.add_argument
        add("--steps", type=int, default=50, help="Optimizer steps in each of 3 rounds.")
        add(
            "--synthetic",
            action="store_true",
            help="Random batches of the closed size, scaled to this machine; reads no data.",
        )
        add(
            "--step_seconds",
            type=float,
            default=5.0,
            help="Scale synthetic batches until a step takes at most this long.",
        )
        add(
            "--memory_gib",
            type=float | None,
            default=None,
            help="Scale synthetic batches and tables to this memory; default: the device's.",
        )
        add(
            "--variants",
            type=str | None,
            default=None,
            help="Compare settings, such as eager,compile,compile+bf16,preset.",
        )
        add(
            "--profile",
            action="store_true",
            help="Add the ten costliest operators, and write a Chrome trace.",
        )
        add("--json", type=Path | None, default=None, help="Write all figures to this file.")

    def before_instantiate_classes(self) -> None:
        """Check the flags of this command."""
        config = self.config
        if config.steps < FEWEST_STEPS:
            raise UsageError(f"--steps must be at least {FEWEST_STEPS}, got {config.steps}")
        for name in ("step_seconds", "memory_gib"):
            if config[name] is not None and config[name] <= 0:
                raise UsageError(f"--{name} must be above 0, got {config[name]:g}")
        if config.synthetic and (config.data.get("root") or config.data.get("shards")):
            raise UsageError("--synthetic reads no data; leave out --data.root and --data.shards")
        if config.json is not None and not config.json.absolute().parent.is_dir():
            raise UsageError(f"--json {config.json}: {config.json.parent} is not a directory")
        self.variants = parse_variants(config.variants) if config.variants else []
        super().before_instantiate_classes()

    def adapt_datamodule(self) -> None:
        """Put facts of the whole data set in the place of data."""
        if self.config.synthetic:
            share = share_for_tables(self)
            self.scaled = self.datamodule.use_synthetic_data(share)
            check_weights_fit(self)
