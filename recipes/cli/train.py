"""The commands that run a trainer on the data: fit and validate."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from callbacks.live_line import LIVE
from callbacks.progress import Progress
from callbacks.quality_target import QualityTarget, RunState, StopRun
from datamodules.common.loaders import socket_problem
from recipes.cli.arguments import Arguments
from recipes.cli.benchmark import Benchmark
from recipes.cli.checks import check_checkpoint, check_named_checkpoint, check_weights
from recipes.cli.data_check import check_data
from recipes.cli.doing import doing
from recipes.cli.load import with_checkpoint_of_run
from recipes.cli.memory import check_training_memory, explained_memory_errors
from recipes.cli.net_errors import explained_net_errors
from recipes.cli.nodes import prepare_on_every_node
from recipes.cli.noise import quiet
from recipes.cli.parser import RecipeCLI
from recipes.cli.ranks import ending_together, launched_ranks
from recipes.cli.resume import (
    CHOOSING,
    exit_suppressed_if_interrupted,
    find_resume,
    with_run_config,
)
from recipes.cli.resume_auto import same_command
from recipes.cli.resume_check import check_settings
from recipes.cli.run import Run, rank_zero_exit_code
from recipes.cli.screen import wrap_to_terminal
from recipes.cli.usage import UsageError


def fit(benchmark: Benchmark, arguments: Arguments) -> int:
    """Train until the target is reached; return the exit status: 0, 3 or 130."""
    state = RunState()  # first of all: its clock starts with the process
    quiet()
    LIVE.show("setting up the run")
    ranks = launched_ranks()
    with ending_together(ranks):
        if arguments.value("--ckpt_path") not in CHOOSING:
            arguments = with_checkpoint_of_run(arguments)
        check_named_checkpoint(benchmark, arguments)
        auto = partial(same_command, benchmark)
        resume = find_resume(benchmark.name, arguments, ranks=ranks, auto=auto)
        cli = RecipeCLI(benchmark, "fit", resume.arguments)
        _check_resumed_checkpoint(benchmark, cli)
        check_settings(cli)
        if getattr(cli.datamodule, "num_workers", 0) and (line := socket_problem()):
            raise UsageError(line)
        check_data(benchmark, cli.datamodule, cli.division)
        check_foreign_net(cli)
        if cli.config.trainer.enable_progress_bar is False:
            LIVE.stop()
        run = Run(benchmark, cli, state, resumed_from=resume.folder)
        check_training_memory(cli.model, cli.datamodule, run.trainer)
    if ranks is not None:
        prepare_on_every_node(benchmark, cli, ranks)
    stopped: StopRun | None = None
    with resume.claim or nullcontext(), exit_suppressed_if_interrupted(state):
        try:
            # Not an argument of fit(): setup() needs it, to load starting weights or leave them.
            run.trainer.ckpt_path = cli.config.ckpt_path
            with (
                doing(f"preparing the {'demo ' * cli.demo}data"),
                explained_memory_errors(cli.config, cli.model, run.trainer),
                explained_net_errors(cli.net, cli.model),
            ):
                run.trainer.fit(cli.model, datamodule=cli.datamodule, weights_only=True)
        except StopRun as stop:
            stopped = stop
            run.complete_record(stop)
        except BaseException as error:
            run.complete_record(error)
            raise
    return run.verdict(stopped or run.end_without_a_step())


def validate(benchmark: Benchmark, arguments: Arguments) -> int:
    """Evaluate a checkpoint once; return 0 if it reaches the target, else 3.

    A module that starts from given weights may have ``starting_weights(datamodule)`` and
    ``judge_start(quality)``. Without a checkpoint these weights are evaluated and judged, and
    the status is 0 if they are right, else 1.
    """
    quiet()
    ranks = launched_ranks()
    with ending_together(ranks):
        arguments = with_checkpoint_of_run(arguments)
        check_named_checkpoint(benchmark, arguments)
        cli = RecipeCLI(benchmark, "validate", with_run_config(arguments))
        _check_resumed_checkpoint(benchmark, cli)
        if not cli.config.ckpt_path and starting_checkpoint(cli) is None:
            line = "validate needs --ckpt_path RUN (runs/<benchmark>/<run>, or a checkpoint)"
            raise UsageError(line)
        target: QualityTarget = cli.config_init.target
        trainer = cli.build_trainer(logger=False, callbacks=[target, Progress(target)])
    if ranks is not None:
        prepare_on_every_node(benchmark, cli, ranks)
    trainer.strategy.strict_loading = True  # type: ignore[attr-defined]
    trainer.ckpt_path = cli.config.ckpt_path
    with (
        doing(f"preparing the {'demo ' * cli.demo}data"),
        explained_memory_errors(cli.config, cli.model, trainer),
    ):
        trainer.validate(cli.model, datamodule=cli.datamodule, verbose=False, weights_only=True)
    quality = target.read(trainer)
    for name, value in sorted(trainer.callback_metrics.items()):
        rank_zero_only(print)(f"{name.removeprefix('val/'):24} {float(value):.6f}")
    return rank_zero_exit_code(trainer, _judge(cli, trainer, target, quality))


def _judge(cli: RecipeCLI, trainer: Trainer, target: QualityTarget, quality: Any) -> int:
    """Print what the figures mean and return the exit status."""
    reached = target.reached(quality)
    verdict = "reached" if reached else "not reached"
    weights = cli.config.ckpt_path or f"the starting weights {starting_checkpoint(cli)}"
    rank_zero_only(print)(wrap_to_terminal(f"Target {target.text()} {verdict} by {weights}."))
    judge: Any = getattr(cli.model, "judge_start", None)
    judgement = judge(quality) if judge and not cli.config.ckpt_path else None
    if judgement is None:
        return 0 if reached else 3
    right, sentence = judgement
    rank_zero_only(print)(sentence)
    return 0 if right else 1


def starting_checkpoint(cli: RecipeCLI) -> Path | None:
    """Return the file of weights that the module starts training from; ``None``: random ones."""
    starting_weights: Any = getattr(cli.model, "starting_weights", None)
    return starting_weights(cli.datamodule) if starting_weights else None


def check_foreign_net(cli: RecipeCLI) -> None:
    """Check a foreign network on inputs of the data's shape, if the module can."""
    check = getattr(cli.model, "check_net", None)
    if not callable(check) or cli.net.is_reference:
        return
    wanted = inspect.signature(check).parameters
    facts = {name: value for name, value in cli.net.facts().items() if name in wanted}
    check(**facts)


def _check_resumed_checkpoint(benchmark: Benchmark, cli: RecipeCLI) -> None:
    if cli.config.ckpt_path:
        check_checkpoint(benchmark, Path(cli.config.ckpt_path))
        check_weights(cli.model, Path(cli.config.ckpt_path))
