"""The commands that build a module and a trainer: fit, validate and speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from callbacks.checkpoint import read_benchmark
from callbacks.quality_target import QualityTarget, RunState, StopRun
from recipes.cli.benchmark import Benchmark
from recipes.cli.division import net_name
from recipes.cli.noise import quiet
from recipes.cli.parser import RecipeCLI
from recipes.cli.presets import demo_preset
from recipes.cli.resume import find, interrupts_as_stop, option, with_run_config
from recipes.cli.run import Run, own_status
from recipes.cli.screen import fitted
from recipes.cli.usage import UsageError


def fit(benchmark: Benchmark, args: list[str]) -> int:
    """Train until the target is reached.

    Args:
        benchmark: The data sheet.
        args: Arguments after ``fit``.

    Returns:
        The exit status of DESIGN section 5: 0, 3 or 130.

    Raises:
        ValueError: For settings or data that cannot work, before training begins.
    """
    state = RunState()  # first of all: its clock starts with the process
    quiet()
    refuse_named_checkpoint(benchmark, args)
    resume = find(benchmark.name, args)
    cli = RecipeCLI(benchmark, "fit", resume.args)
    if cli.config.ckpt_path:
        refuse_foreign_checkpoint(benchmark, Path(cli.config.ckpt_path))
        refuse_other_weights(cli.model, Path(cli.config.ckpt_path))
    check_foreign_net(cli)
    preset = option(args, "--config")
    if cli.demo and preset not in (None, str(demo_preset(benchmark))):  # that one is announced
        rank_zero_only(print)("No --data.root: training on generated demo data.")
    run = Run(benchmark, cli, state, resumed_from=resume.folder)
    stopped: StopRun | None = None
    with interrupts_as_stop(state):
        try:
            # An attribute, as setup() knows it then, where starting weights are loaded or left.
            run.trainer.ckpt_path = cli.config.ckpt_path
            run.trainer.fit(cli.model, datamodule=cli.datamodule, weights_only=True)
        except StopRun as stop:
            stopped = stop
    return run.verdict(stopped or run.end_without_a_step())


def validate(benchmark: Benchmark, args: list[str]) -> int:
    """Evaluate a checkpoint once and print what it measures.

    A module that starts from given weights may offer ``starting_weights(datamodule)`` and
    ``judge_start(quality)``; without a checkpoint these weights are evaluated and judged.

    Args:
        benchmark: The data sheet.
        args: Arguments after ``validate``.

    Returns:
        0 if the checkpoint holds the target, else 3; for judged starting weights 0 if they are
        right, else 1.

    Raises:
        ValueError: If no checkpoint is named or it belongs to another benchmark.
    """
    quiet()
    refuse_named_checkpoint(benchmark, args)
    cli = RecipeCLI(benchmark, "validate", with_run_config(args))
    if cli.config.ckpt_path:
        refuse_foreign_checkpoint(benchmark, Path(cli.config.ckpt_path))
        refuse_other_weights(cli.model, Path(cli.config.ckpt_path))
    elif given_start(cli) is None:
        raise UsageError("validate needs --ckpt_path FILE (runs/.../checkpoints/last.ckpt)")
    target: QualityTarget = cli.config_init.target
    trainer = cli.build_trainer(logger=False, callbacks=[target], enable_progress_bar=False)
    trainer.strategy.strict_loading = True  # type: ignore[attr-defined]
    trainer.ckpt_path = cli.config.ckpt_path
    trainer.validate(cli.model, datamodule=cli.datamodule, verbose=False, weights_only=True)
    quality = target.read(trainer)
    for name, value in sorted(trainer.callback_metrics.items()):
        rank_zero_only(print)(f"{name.removeprefix('val/'):24} {float(value):.6f}")
    reached = target.reached(quality)
    verdict = "reached" if reached else "not reached"
    weights = cli.config.ckpt_path or f"the starting weights {given_start(cli)}"
    rank_zero_only(print)(fitted(f"Target {target.text()} {verdict} by {weights}."))
    judge: Any = getattr(cli.model, "judge_start", None)
    judgement = judge(quality) if judge and not cli.config.ckpt_path else None
    if judgement is None:
        return own_status(trainer, 0 if reached else 3)
    right, sentence = judgement
    rank_zero_only(print)(sentence)
    return own_status(trainer, 0 if right else 1)


def given_start(cli: RecipeCLI) -> Path | None:
    """The weights that a module starts training from, where it is given some.

    Args:
        cli: The parsed command line.

    Returns:
        Their file; None for random ones.
    """
    find: Any = getattr(cli.model, "starting_weights", None)
    return find(cli.datamodule) if find else None


def speed(benchmark: Benchmark, args: list[str]) -> int:
    """Measure the training step; see ``recipes.cli.speed``.

    Args:
        benchmark: The data sheet.
        args: Arguments after ``speed``.

    Returns:
        0.
    """
    quiet()
    from recipes.cli.speed import SKIPPED, measure

    cli = RecipeCLI(benchmark, "speed", args)
    if cli.config.steps <= SKIPPED + 1:
        raise UsageError(f"--steps must be more than {SKIPPED + 1}, got {cli.config.steps}")
    measure(benchmark, cli, cli.config.steps)
    return 0


def check_foreign_net(cli: RecipeCLI) -> None:
    """Try a foreign network's shapes before anything is trained.

    Args:
        cli: Parsed flags and the module, which may offer ``check_net``.

    Raises:
        ValueError: What shape was expected and what came.
    """
    default = cli.parser.get_defaults().model.net
    check = getattr(cli.model, "check_net", None)
    if callable(check) and net_name(cli.config.model.net) != net_name(default):
        check()


def refuse_named_checkpoint(benchmark: Benchmark, args: list[str]) -> None:
    """Look at a checkpoint before its run's settings are read: another benchmark's fit no flag.

    Args:
        benchmark: The data sheet.
        args: Arguments after the command.

    Raises:
        ValueError: In one line: what is wrong with which file.
    """
    path = option(args, "--ckpt_path")
    if path not in (None, "last"):
        refuse_foreign_checkpoint(benchmark, Path(str(path)))


def refuse_foreign_checkpoint(benchmark: Benchmark, path: Path) -> None:
    """Refuse a checkpoint that is missing, damaged or another benchmark's.

    Args:
        benchmark: The data sheet.
        path: The checkpoint.

    Raises:
        ValueError: In one line: what is wrong with which file.
    """
    if not path.is_file():
        raise UsageError(f"--ckpt_path: no file {path}")
    writer = read_benchmark(path)
    if writer != benchmark.name:
        raise UsageError(
            f"--ckpt_path: {path} was written by "
            f"{'another program' if writer is None else writer}, not by {benchmark.name}"
        )


def refuse_other_weights(model: Any, path: Path) -> None:
    """Refuse a checkpoint whose network has other tensors than the one that is built.

    Args:
        model: The module. A network that it builds later is not compared.
        path: The checkpoint.

    Raises:
        ValueError: In one line: which tensor differs, and what to do.
    """
    own = {name: tuple(x.shape) for name, x in model.state_dict().items() if name[:4] == "net."}
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    saved = {name: tuple(x.shape) for name, x in content["state_dict"].items()}
    differ = [name for name, shape in own.items() if saved.get(name) != shape]
    if differ:
        name, more = differ[0], f" and {len(differ) - 1} more" if differ[1:] else ""
        raise ValueError(
            f"{path} holds weights of another network: {name} is {saved.get(name, 'missing')} "
            f"instead of {own[name]}{more}; --config FILE names its run's config.yaml"
        )
