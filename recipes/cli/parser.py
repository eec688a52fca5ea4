"""LightningCLI without its subcommands: one parser per command, with our groups of flags."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import jsonargparse
import torch
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
from recipes.cli.benchmark import Benchmark
from recipes.cli.division import violations
from recipes.cli.loggers import prepare_wandb
from recipes.cli.strategy import build_strategy
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
    """Parses one command's flags and builds module, datamodule and nothing else.

    The trainer is built by ``recipes.cli.train``, which knows the callbacks.

    Args:
        benchmark: The data sheet.
        command: Name of the command, for ``--help``.
        args: Arguments after the command.
        build: Build module and data module; without, only the flags are parsed.
    """

    def __init__(
        self, benchmark: Benchmark, command: str, args: list[str], *, build: bool = True
    ) -> None:
        self.benchmark, self.command, self._build = benchmark, command, build
        super().__init__(
            benchmark.module_class(),
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
            args=args,
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and name the nearest flag when one is unknown.

        Args:
            parser: The parser.
            args: Arguments after the command.

        Raises:
            ArgumentError: One line: what, and what was probably meant.
        """
        try:
            self.config = parser.parse_args(args)
        except jsonargparse.ArgumentError as error:
            text = explain(str(error), flags(parser), args or [])
            raise jsonargparse.ArgumentError(None, text) from error

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the flags that belong to no group.

        Args:
            parser: The parser.
        """
        parser.add_argument(
            "--seed_everything",
            type=int | None,
            default=None,
            help="Seed of the run; a fresh one from the operating system by default.",
        )
        parser.add_argument(
            "--output_root",
            type=Path,
            default=Path("runs"),
            help="Folder of all runs; each makes OUTPUT_ROOT/<benchmark>/<time>-seed<seed>/.",
        )
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="Checkpoint to go on from; 'last' resumes the newest unfinished run.",
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add our groups: target, evaluation, warmup, checkpoint, submission.

        Args:
            parser: The parser.
        """
        benchmark = self.benchmark
        parser.add_class_arguments(QualityTarget, "target", skip={"state"})
        parser.add_class_arguments(EvaluationSchedule, "evaluation")
        parser.add_class_arguments(WarmUp, "warmup")
        parser.add_class_arguments(
            Checkpoint, "checkpoint", skip={"folder", "state", "benchmark"}, instantiate=False
        )
        parser.add_class_arguments(Submission, "submission")
        if self.command == "speed":
            parser.add_argument("--steps", type=int, default=50, help="Steps per round, 3 rounds.")
        defaults = {"target.metrics": dict(benchmark.metrics), "target.mode": benchmark.mode}
        defaults |= {f"evaluation.{key}": value for key, value in benchmark.evaluation.items()}
        defaults |= {f"warmup.{key}": value for key, value in benchmark.warmup.items()}
        parser.set_defaults(defaults)

    def _set_seed(self) -> None:
        from lightning import seed_everything

        if self.config.seed_everything is None:
            # A launcher's children inherit the seed that rank 0 drew.
            self.config.seed_everything = int(os.environ.get("PL_GLOBAL_SEED", fresh_seed()))
        seed_everything(self.config.seed_everything, workers=True, verbose=False)

    def before_instantiate_classes(self) -> None:
        """Check the target's names and decide the division, which the loggers' settings name."""
        known: Any = self.benchmark.module_class()
        refuse_unknown_metrics(self.config.target.metrics, known.metric_names)
        if self.config.trainer.use_distributed_sampler:
            raise UsageError(
                "--trainer.use_distributed_sampler: data modules share samples out themselves, so "
                "each rank would see a share of its share; leave the flag out"
            )
        self.demo = self.config.data.get("root") is None
        self.division = self._decide_division()
        prepare_wandb(self.config, group=self.benchmark.name, job_type=self.division)

    def _decide_division(self) -> str:
        wanted = self.config.submission.division
        defaults = flat(self.parser.get_defaults())
        found = violations(self.benchmark, flat(self.config), defaults, demo=self.demo)
        if wanted == "closed" and found:
            if self.demo:
                found = ["this is demo data; name the real data with --data.root DIR"]
            raise UsageError("not a closed division run: " + "; ".join(found))
        return "open" if found or wanted == "open" else "closed"

    def instantiate_classes(self) -> None:
        """Build module, datamodule and the groups; the trainer comes later."""
        if not self._build:
            return
        try:
            self.config_init: Namespace = self.parser.instantiate(self.config)
        except ValueError as error:  # what a constructor says of its arguments
            raise UsageError(str(error)) from error
        self.datamodule = self.config_init.data
        self.model = self.config_init.model

    def build_trainer(self, **settings: Any) -> Trainer:
        """Build the trainer.

        Args:
            **settings: Replace or extend the parsed ``trainer`` flags.

        Returns:
            The trainer.
        """
        given = {**self.config_init.trainer.as_dict(), **settings}
        refuse_missing_devices(given["accelerator"], given["devices"])
        chosen = given["strategy"]
        given["strategy"] = build_strategy(chosen, self.model)
        try:
            trainer = Trainer(**given)
            if chosen == "auto" and isinstance(trainer.strategy, DDPStrategy):
                # Several devices: only Lightning knew, but its own settings would not do.
                trainer = Trainer(**{**given, "strategy": build_strategy("ddp", self.model)})
        except (ValueError, MisconfigurationException) as error:
            raise UsageError(f"--trainer: {error}") from error
        return trainer


def refuse_missing_devices(accelerator: str, devices: Any) -> None:
    """Refuse more devices than there are, before processes are started that wait for each other.

    Args:
        accelerator: ``--trainer.accelerator``.
        devices: ``--trainer.devices``: a number, a list of numbers, or one of Lightning's words.

    Raises:
        UsageError: In one line: how many were asked for and how many there are.
    """
    wanted = len(devices) if isinstance(devices, list | tuple) else str(devices)
    gpus = torch.cuda.device_count()
    if accelerator == "auto" and not gpus and torch.backends.mps.is_available():
        return  # Lightning knows how many of these there are
    on_gpu = accelerator in ("cuda", "gpu") or (accelerator == "auto" and gpus > 0)
    if not (on_gpu or accelerator in ("cpu", "auto")) or not str(wanted).isdigit():
        return
    there = gpus if on_gpu else os.cpu_count() or 1
    if int(wanted) > there:
        kind = "CUDA devices" if on_gpu else "CPU cores and no CUDA device"
        raise UsageError(f"--trainer.devices {devices}: this machine has {there} {kind}")


def refuse_unknown_metrics(wanted: Iterable[str], known: Sequence[str]) -> None:
    """Refuse a target on a metric that the benchmark does not measure.

    Args:
        wanted: Names of ``--target.metrics``.
        known: Names that the module logs.

    Raises:
        UsageError: In one line, with the metrics that there are.
    """
    unknown = sorted({name.removeprefix("val/") for name in wanted} - set(known))
    if unknown:
        raise UsageError(
            f"--target.metrics: {', '.join(unknown)} does not exist; this benchmark measures: "
            f"{', '.join(sorted(known))}"
        )


class Submission:
    """What a submitter says of a run; it only changes the log.

    Args:
        division: ``auto`` is closed where every rule of it holds, else open. ``closed`` refuses
            to start where one does not.
        org: Organisation.
        platform: Name of the system.
        status: Availability of the system, in the log's words.
        clear_cache: Drop the operating system's page cache before the run (needs root).

    Raises:
        ValueError: If a name is empty.
    """

    def __init__(
        self,
        division: Literal["auto", "closed", "open"] = "auto",
        *,
        org: str = "finishline",
        platform: str = "unnamed",
        status: Literal["cloud", "onprem", "preview", "research"] = "onprem",
        clear_cache: bool = False,
    ) -> None:
        if not org or not platform:
            raise ValueError("submission.org and submission.platform must not be empty")
        self.division, self.clear_cache = division, clear_cache
        self.names = {"org": org, "platform": platform, "status": status}


def flat(config: Namespace) -> dict[str, Any]:
    """Settings of all groups that the closed division has rules for.

    Args:
        config: Parsed flags or the parser's defaults.

    Returns:
        Dotted flag name -> value.
    """
    groups = ("model", "data", "trainer", "target", "evaluation")
    return {f"{group}.{k}": v for group in groups for k, v in vars(config[group]).items()}


def flags(parser: LightningArgumentParser) -> list[str]:
    """All long flags of a parser.

    Args:
        parser: The parser.

    Returns:
        Flags with their dashes.
    """
    return [name for a in parser._actions for name in a.option_strings if name.startswith("--")]
