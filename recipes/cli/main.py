"""The command line that all recipes share: fit, validate, prepare, doctor and speed."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from recipes.cli.benchmark import Benchmark
from recipes.cli.presets import RECIPES, rank, with_default_preset
from recipes.cli.screen import fitted
from recipes.cli.usage import UsageError

COMMANDS = {
    "fit": "train to the quality target and stop the clock",
    "validate": "evaluate a checkpoint once",
    "prepare": "check and preprocess the real data (off the clock, restartable)",
    "doctor": "tell what this machine and this data lack, and what to do",
    "speed": "measure the training step, the data wait and a plain PyTorch loop",
}


def main(benchmark: Benchmark, sheet: str | None) -> None:
    """Run a recipe from the command line and leave with its exit status.

    Args:
        benchmark: The recipe's data sheet.
        sheet: The recipe's docstring, shown by ``--help``.
    """
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
    args = list(args)
    debug = "--debug" in args
    if not args or args[0] in ("-h", "--help", "help"):
        print(_sheet(benchmark, sheet))
        return 0
    if args[0] not in [*COMMANDS, *benchmark.commands]:
        return _fail(_unknown_command(args[0], [*COMMANDS, *benchmark.commands]), 2)
    try:
        with _own_seed():
            return _dispatch(benchmark, args[0], [a for a in args[1:] if a != "--debug"])
    except _usage_errors() as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail(_interrupted(args[0]), 130)
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _fail(f"{_one_line(error)}", 1)


@contextmanager
def _own_seed() -> Iterator[None]:
    """Take back what Lightning leaves for a run's children, or the next run here took its seed."""
    names = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _dispatch(benchmark: Benchmark, command: str, args: list[str]) -> int:
    # Imported here: torch and Lightning take seconds that --help need not wait for.
    if command in benchmark.commands:
        return benchmark.command(command)(args)
    if command in ("prepare", "doctor"):
        from recipes.cli import data

        return getattr(data, command)(benchmark, args)
    from recipes.cli import train

    return getattr(train, command)(benchmark, with_default_preset(benchmark, command, args))


def _sheet(benchmark: Benchmark, sheet: str | None) -> str:
    own = {k: (benchmark.command(k).__doc__ or "").partition("\n")[0] for k in benchmark.commands}
    commands = "\n".join(f"  {name:10}{text}" for name, text in {**COMMANDS, **own}.items())
    facts = (
        f"Target    {benchmark.target_text()} ({benchmark.dataset}, {benchmark.area})\n"
        f"Score     mean of {benchmark.runs} runs without the {benchmark.dropped} fastest and "
        f"{benchmark.dropped} slowest"
    )
    return f"{(sheet or facts).strip()}\n\n{facts}\n\nCommands (each has --help)\n{commands}"


def _unknown_command(word: str, known: Sequence[str]) -> str:
    import difflib

    near = difflib.get_close_matches(word, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown command {word!r}{hint} (commands: {', '.join(known)})"


def _interrupted(command: str) -> str:
    if command == "prepare":
        return "interrupted; the same command goes on where it was"
    return "interrupted before training began" if command == "fit" else "interrupted"


def _usage_errors() -> tuple[type[BaseException], ...]:
    # jsonargparse is imported by the commands that parse flags; without it no such error exists.
    module = sys.modules.get("jsonargparse")
    return (UsageError, *((module.ArgumentError,) if module is not None else ()))


def _one_line(error: BaseException) -> str:
    text = str(error).strip() or "no message"
    # Errors made for users are ValueError and OSError; the type of any other helps a bug report.
    # Lightning's MisconfigurationException is one too, but importing it here would be slow.
    name = type(error).__name__
    if " in DataLoader worker process " in text.partition("\n")[0]:
        text = text.rpartition(f"\n{name}: ")[2]  # before it stands the worker's traceback
    if isinstance(error, ValueError | OSError) or name == "MisconfigurationException":
        return text
    return f"{name}: {text}"


def _fail(message: str, status: int) -> int:
    # A wrong flag is wrong on every rank; anything else may be seen by one rank only.
    if rank() == 0:
        print(fitted(f"error: {message}", stream=sys.stderr), file=sys.stderr, flush=True)
    elif status == 1:
        print(f"error on rank {rank()}: {message}", file=sys.stderr, flush=True)
    return status
