"""LightningCLI without its subcommands: one parser per command, with our groups of flags."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonargparse
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from callbacks.checkpoint import Checkpoint
from callbacks.evaluation_schedule import EvaluationSchedule
from callbacks.quality_target import QualityTarget
from callbacks.run_folder import fresh_seed
from callbacks.warm_up import WarmUp
from recipes.cli.arguments import Arguments
from recipes.cli.benchmark import Benchmark
from recipes.cli.checkpoint_io import CheckpointIO
from recipes.cli.checks import (
    auto_takes_mac_gpu,
    check_budget,
    check_devices,
    check_metrics,
    check_price,
)
from recipes.cli.config_file import read_config, tell_foreign_code
from recipes.cli.division import violations
from recipes.cli.environment import check_number
from recipes.cli.find import find
from recipes.cli.fsdp2 import FSDP2Strategy
from recipes.cli.help import add_help_all, print_help_if_asked
from recipes.cli.jsonargparse_private import long_flags
from recipes.cli.loggers import give_default_directories, prepare_loggers
from recipes.cli.net import Net, arguments_page, path_of
from recipes.cli.net_setting import FLAG, NetSetting, net_options, net_setting, net_value
from recipes.cli.own_module import module_class, reference_net
from recipes.cli.shards import check_commands
from recipes.cli.strategy import build_strategy
from recipes.cli.submission import Submission
from recipes.cli.usage import UsageError, explain

TRAINER_DEFAULTS: dict[str, Any] = {
    "max_epochs": -1,  # the evaluation schedule's limit ends the run
    "num_sanity_val_steps": 0,  # it would read evaluation data before the clock starts
    "use_distributed_sampler": False,  # it repeats evaluation samples to pad; ours never does
    "enable_checkpointing": False,  # callbacks/checkpoint.py writes the one checkpoint
    "enable_model_summary": False,
    "log_every_n_steps": 10,
}


class RecipeCLI(LightningCLI):
    """Parse one command's flags and build the module and the data module.

    The trainer is built later, with ``build_trainer``, by commands that know the callbacks.

    Args:
        benchmark: The data sheet.
        command: Name of the command, for ``--help``.
        args: Arguments after the command.
        build: Build module and data module; without, only the flags are parsed.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        command: str,
        args: Arguments | Sequence[str],
        *,
        build: bool = True,
    ) -> None:
        self.benchmark, self.command, self._build = benchmark, command, build
        give_default_directories()
        self.arguments = args if isinstance(args, Arguments) else Arguments(args)
        self.module_class = module_class(benchmark, self.arguments)
        super().__init__(
            self.module_class,
            benchmark.datamodule_class(),
            save_config_callback=None,
            trainer_defaults=TRAINER_DEFAULTS | dict(benchmark.trainer),
            parser_kwargs={
                "prog": f"{benchmark.name}.py {command}",
                "exit_on_error": False,
                "allow_abbrev": False,  # a shortened flag is more often a typo
                "description": f"{benchmark.area} on {benchmark.dataset}: "
                f"{benchmark.target_text()}. Defaults are the closed reference.",
            },
            args=list(self.arguments.words),
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, name the nearest flag when one is unknown, and give the run its seed."""
        print_help_if_asked(parser, self.benchmark, self.command, self.arguments)
        for path in self.arguments.values("--config"):
            tell_foreign_code(path, read_config(path))
        reference = reference_net(self.benchmark, self.module_class)
        self._print_net_help_if_asked(reference)
        self.net = Net(net_setting(self.arguments, path_of(reference)), reference)
        net = net_options(self.arguments)
        words = [word for o in self.arguments.options if o not in net for word in o.words]
        try:
            self.config = parser.parse_args([*words, f"{FLAG}={json.dumps(self.net.setting())}"])
        except jsonargparse.ArgumentError as error:
            text = explain(str(error), long_flags(parser), self.arguments)
            raise jsonargparse.ArgumentError(None, text) from error
        if self.config.seed_everything is None:
            # A launcher's children inherit the seed that rank 0 drew.
            self.config.seed_everything = int(os.environ.get("PL_GLOBAL_SEED", fresh_seed()))
        check_commands(self.config.data, self.arguments)
        check_number(
            f"--seed_everything {self.config.seed_everything}", self.config.seed_everything
        )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the flags that belong to no group."""
        parser.add_argument(
            "--seed_everything",
            type=int | None,
            default=None,
            help="Random seed; a new one by default.",
        )
        parser.add_argument(
            "--output_root",
            type=Path,
            default=Path("runs"),
            help="Directory of all runs. Each makes <benchmark>/<time>-seed<seed>/ in it.",
        )
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="Checkpoint to resume from. With 'last' the newest unfinished run's; 'auto' takes "
            "that of the same command, or starts anew."
            if self.command == "fit"
            else "A run's directory, or a checkpoint.",
        )
        if self.command == "predict":
            parser.add_argument(
                "--out",
                type=Path,
                default=Path("predictions"),
                help="Directory for the predictions.",
            )
            text = "Replace files that exist in the directory."
            parser.add_argument("--overwrite", type=bool, default=False, help=text)
        parser.add_argument(
            "--init_weights",
            type=Path | None,
            default=None,
            help="Weights to start from: safetensors or a state dict (open division).",
        )
        parser.add_argument(
            "--module",
            type=str | None,
            default=None,
            help="Own loss, optimizer or augmentation: a subclass of the recipe's module (open).",
        )
        parser.add_argument(
            "--force_resume",
            type=bool,
            default=False,
            help="Resume with another seed, network, learning rate or data than before.",
        )
        if self.command == "fit":
            text = "Price of one hour of the machines: its cost."
            parser.add_argument("--cost_per_hour", type=float | None, default=None, help=text)
        add_help_all(parser)

    def _print_net_help_if_asked(self, reference: Any) -> None:
        for option in net_options(self.arguments):
            if option.name == f"{FLAG}.help":
                name = option.value or self.arguments.value(FLAG)
                target = find(name, FLAG) if name else reference
                print(arguments_page(target, name or path_of(reference)))
                raise SystemExit(0)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add trainer, model and data; the network's flags are parsed by ``Net``."""
        parser.add_lightning_class_args(Trainer, "trainer")
        parser.set_defaults({f"trainer.{key}": v for key, v in self.trainer_defaults.items()})
        parser.add_class_arguments(
            self.module_class, "model", skip={"net"}, fail_untyped=False, instantiate=False,
            sub_configs=True,
        )  # fmt: skip
        reference = reference_net(self.benchmark, self.module_class)
        parser.add_argument(
            FLAG,
            type=net_value,  # not a type hint: jsonargparse would merge class_path's arguments
            default=Net(NetSetting(), reference).setting(),
            help="Class or function that builds the network.",
        )
        parser.add_lightning_class_args(self.benchmark.datamodule_class(), "data")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add our groups: target, evaluation, warmup, checkpoint, submission."""
        benchmark = self.benchmark
        parser.add_class_arguments(QualityTarget, "target", skip={"state"})
        parser.add_class_arguments(EvaluationSchedule, "evaluation")
        parser.add_class_arguments(WarmUp, "warmup")
        parser.add_class_arguments(
            Checkpoint, "checkpoint", skip={"folder", "state", "benchmark"}, instantiate=False
        )
        parser.add_class_arguments(Submission, "submission")
        defaults = {"target.metrics": dict(benchmark.metrics), "target.mode": benchmark.mode}
        defaults |= {f"evaluation.{key}": value for key, value in benchmark.evaluation.items()}
        defaults |= {f"warmup.{key}": value for key, value in benchmark.warmup.items()}
        parser.set_defaults(defaults)

    def before_instantiate_classes(self) -> None:
        """Check the target's names and decide the division, which the loggers' settings name."""
        module: Any = self.benchmark.module_class()
        check_metrics(self.config.target.metrics, module.metric_names)
        if self.command == "fit":
            check_budget(self.config.trainer)
            check_price(self.config.cost_per_hour)
        if self.config.trainer.use_distributed_sampler:
            raise UsageError(
                "--trainer.use_distributed_sampler: data modules split samples over ranks "
                "themselves, so each rank would see a share of its share; leave the flag out"
            )
        synthetic = self.config.get("synthetic", False)
        sources = (self.config.data.get(name) for name in ("root", "raw", "shards"))
        self.demo = all(source is None for source in sources) and not synthetic
        self.spares_mac = self.demo and auto_takes_mac_gpu(self.config.trainer.accelerator)
        if self.spares_mac:
            self.config.trainer.accelerator = "cpu"
        self.division = self._decide_division()
        prepare_loggers(self.config, group=self.benchmark.name, job_type=self.division)

    def _decide_division(self) -> str:
        wanted = self.config.submission.division
        defaults = flat(self.parser.get_defaults())
        broken = violations(self.benchmark, flat(self.config), defaults, demo=self.demo)
        if wanted == "closed" and broken:
            if self.demo:
                broken = ["this is demo data; pass the real data with --data.root DIR"]
            raise UsageError("not a closed division run: " + "; ".join(broken))
        return "open" if broken or wanted == "open" else "closed"

    def instantiate_classes(self) -> None:
        """Build the module, the data module and the groups; the trainer comes later."""
        if not self._build:
            return
        try:
            self.config_init: Namespace = self.parser.instantiate(self.config)
        except ValueError as error:  # raised by a constructor about its arguments
            raise UsageError(str(error)) from error
        self.datamodule = self.config_init.data
        self.net.facts = self._net_facts
        self.adapt_datamodule()
        try:
            self.model = self.module_class(**{**vars(self.config_init.model), "net": self.net})
        except ValueError as error:
            raise UsageError(str(error)) from error
        self.config_init.model = self.model
        path = self.config.init_weights
        if path is not None and not self.config.ckpt_path:
            try:
                self.model.start_from(path)
            except (FileNotFoundError, ValueError) as error:
                raise UsageError(f"--init_weights: {error}") from error

    def adapt_datamodule(self) -> None:
        """Change the data module before the network asks for its facts; a command may."""

    def _net_facts(self) -> dict[str, Any]:
        """Return what the data fix about the network."""
        try:
            return self.datamodule.net_facts()
        except ValueError as error:
            if self.net.is_reference and (self.demo or self.division == "closed"):
                return {}  # its own arguments; other data stop a closed run once prepared
            raise UsageError(str(error)) from error

    def build_trainer(self, **settings: Any) -> Trainer:
        """Build the trainer; ``settings`` replace or extend the parsed ``trainer`` flags."""
        given = {**self.config_init.trainer.as_dict(), **settings}
        check_devices(given["accelerator"], given["devices"])
        chosen = given["strategy"]
        given["strategy"] = build_strategy(chosen, self.model)
        if isinstance(given["strategy"], FSDP2Strategy):
            given["inference_mode"] = False  # weights gathered there could not be trained on later
        try:
            trainer = Trainer(**given)
            if chosen == "auto" and isinstance(trainer.strategy, DDPStrategy):
                # Only now is it known that there are several devices; ours replaces Lightning's.
                trainer = Trainer(**{**given, "strategy": build_strategy("ddp", self.model)})
        except (ValueError, MisconfigurationException) as error:
            raise UsageError(f"--trainer: {error}") from error
        trainer.strategy.checkpoint_io = CheckpointIO(optimizers=self.command == "fit")
        return trainer


def flat(config: Namespace) -> dict[str, Any]:
    """Return the settings that closed rules may name: dotted flag name -> value."""
    groups = ("model", "data", "trainer", "target", "evaluation")
    grouped = {f"{group}.{k}": v for group in groups for k, v in vars(config[group]).items()}
    return {**grouped, "module": config.module, "init_weights": config.init_weights}
