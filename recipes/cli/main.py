"""Entry point of every recipe: pick the command, run it, turn errors into one line and a status."""

from __future__ import annotations

import difflib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from callbacks.live_line import LIVE
from callbacks.signals import interrupt, signals_as, untouched
from datamodules.common.loaders import failure
from recipes.cli.arguments import Arguments
from recipes.cli.benchmark import Benchmark
from recipes.cli.environment import check_variables, settle
from recipes.cli.presets import RECIPES, rank, with_default_preset
from recipes.cli.screen import wrap_to_terminal
from recipes.cli.torch_pairs import check_pairs
from recipes.cli.usage import UsageError

COMMANDS = {
    "fit": "train to the quality target and stop the clock",
    "validate": "evaluate a checkpoint once",
    "predict": "apply a trained run to your own inputs",
    "prepare": "check and preprocess the real data (off the clock, restartable)",
    "doctor": "list what this machine and this data lack, and what to do",
    "speed": "measure the training step, a plain PyTorch loop and variants, also without data",
}
# Modules are named, not imported: torch and Lightning take seconds that --help need not wait for.
MODULES = {
    "fit": "recipes.cli.train",
    "validate": "recipes.cli.train",
    "predict": "recipes.cli.predict",
    "prepare": "recipes.cli.data",
    "doctor": "recipes.cli.data",
    "speed": "recipes.speed.command",
}
TO_READ = ("--help", "--help-all", "--print_config")
PASSED_ON = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "FINISHLINE_DECIDED")


def main(benchmark: Benchmark, sheet: str | None) -> None:
    """Run a recipe from the command line and exit with its status.

    Args:
        benchmark: The recipe's data sheet.
        sheet: The recipe's docstring, shown by ``--help``.
    """
    settle()
    # Python put recipes/ first: `cli` and each recipe there would shadow a user's module.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != RECIPES]
    # As with `python -m`, modules in the current directory are importable: --model.net my_nets.Net.
    # Last, so that no file there can shadow another module.
    if not sys.flags.safe_path:
        sys.path.append(os.getcwd())
    status = run(benchmark, sys.argv[1:], sheet=sheet)
    # No clean-up that could hang or print: every file of the run is closed by now.
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(status)


def run(benchmark: Benchmark, args: Sequence[str], *, sheet: str | None = None) -> int:
    """Run one command.

    Args:
        benchmark: The recipe's data sheet.
        args: Arguments after the script's name, e.g. ``["fit", "--data.root", "DIR"]``.
        sheet: The recipe's docstring.

    Returns:
        0 target reached or command done, 3 target not reached, 130 interrupted, 2 a wrong
        argument, 1 any other error; errors are printed in one line (traceback with ``--debug``).
    """
    if not args or args[0] in ("-h", "--help", "help"):
        print(_overview(benchmark, sheet))
        return 0
    command, arguments = args[0], Arguments(args[1:])
    if command not in [*COMMANDS, *benchmark.commands]:
        return _fail(_unknown_command(command, [*COMMANDS, *benchmark.commands]), 2)
    try:
        _drop_variables()
        check_pairs(benchmark.built_for_torch)
        with _variables_restored(), signals_as(interrupt, untouched()):
            return _run_command(benchmark, command, arguments.without("--debug"))
    except _usage_errors() as error:
        if "--debug" in arguments and error.__cause__ is not None:  # such as a constructor's error
            traceback.print_exception(error.__cause__)
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail(_interrupted(command), 130)
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        return _fail(_one_line(error), 1)


def _drop_variables() -> None:
    for name, reason in check_variables(os.environ).items():
        del os.environ[name]
        if reason:
            print(f"Note: {reason}", file=sys.stderr, flush=True)


@contextmanager
def _variables_restored() -> Iterator[None]:
    # Set for the children of a run; the next run of this process must not see them.
    before = {name: os.environ.get(name) for name in PASSED_ON}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _run_command(benchmark: Benchmark, command: str, arguments: Arguments) -> int:
    if command in benchmark.commands:
        return benchmark.command(command)(list(arguments.words))
    arguments = with_default_preset(benchmark, command, arguments)
    # A page of help in a pager must not be written over.
    if rank() == 0 and (sys.stdout.isatty() or not any(flag in arguments for flag in TO_READ)):
        LIVE.start()
    LIVE.show("loading PyTorch")
    try:
        return getattr(import_module(MODULES[command]), command)(benchmark, arguments)
    finally:
        LIVE.stop()


def _overview(benchmark: Benchmark, sheet: str | None) -> str:
    own = {name: _summary(benchmark.command(name).__doc__) for name in benchmark.commands}
    texts = {**COMMANDS, **own, "predict": f"{COMMANDS['predict']}: {benchmark.predicts}"}
    if not benchmark.predicts:
        del texts["predict"]
    commands = "\n".join(f"  {name:10}{text}" for name, text in texts.items())
    facts = (
        f"Target    {benchmark.target_text()} ({benchmark.dataset}, {benchmark.area})\n"
        f"Score     mean of {benchmark.runs} runs without the {benchmark.dropped} fastest and "
        f"{benchmark.dropped} slowest"
    )
    return f"{(sheet or facts).strip()}\n\n{facts}\n\nCommands (each has --help)\n{commands}"


def _summary(docstring: str | None) -> str:
    line = (docstring or "").partition("\n")[0].rstrip(".")
    return line[:1].lower() + line[1:]


def _unknown_command(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown command {word!r}{hint} (commands: {', '.join(known)})"


def _interrupted(command: str) -> str:
    if command == "prepare":
        return "interrupted; run the same command again to continue"
    return "interrupted before training began" if command == "fit" else "interrupted"


def _usage_errors() -> tuple[type[BaseException], ...]:
    # jsonargparse is imported by the commands that parse flags; without it no such error exists.
    module = sys.modules.get("jsonargparse")
    return (UsageError, *((module.ArgumentError,) if module is not None else ()))


def _one_line(error: BaseException) -> str:
    text = str(error).strip() or "no message"
    name = type(error).__name__
    if " in DataLoader worker process " in text.partition("\n")[0]:
        text = text.rpartition(f"\n{name}: ")[2]  # the worker's traceback comes first
    if line := failure(text):
        return line
    # Errors made for users are ValueError and OSError; the type of any other helps a bug report.
    # Lightning's MisconfigurationException is one too, but importing it here would be slow.
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, ValueError | OSError) or name == "MisconfigurationException":
        return text
    return f"{name}: {text}"


def _fail(message: str, status: int) -> int:
    # Every rank sees a wrong flag; any other error may occur on one rank only.
    if rank() == 0:
        print(wrap_to_terminal(f"error: {message}", stream=sys.stderr), file=sys.stderr, flush=True)
    elif status == 1:
        text = wrap_to_terminal(f"error on rank {rank()}: {message}", stream=sys.stderr)
        print(text, file=sys.stderr, flush=True)
    return status
