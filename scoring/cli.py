"""The command line; a command's module is imported only when it is used, so help is fast."""

from __future__ import annotations

import argparse
import importlib
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scoring.runs.plain_text import plain

EPILOG = "Exit status: 0 passes, 1 breaks the rules or failed, 2 usage error."
# Command -> the module that holds run(args) -> int.
COMMANDS = {
    "collect": "scoring.commands.collect",
    "check": "scoring.commands.check",
    "score": "scoring.commands.score",
    "compare": "scoring.commands.compare",
    "package": "scoring.commands.package",
    "report": "scoring.commands.report",
}


def parser() -> argparse.ArgumentParser:
    """Build the argument parser of all commands.

    Returns:
        The parser, with one subparser per command.
    """
    top = argparse.ArgumentParser(
        prog="python -m scoring", description="From runs to a result.", epilog=EPILOG
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _collect(commands)
    _check(commands)
    _score(commands)
    _compare(commands)
    _package(commands)
    _report(commands)
    return top


def _command(commands: Any, name: str, text: str, details: str = "") -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=f"{text}. {details}".strip(),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter
        if "\n" in details
        else argparse.HelpFormatter,
    )
    command.add_argument("--json", action="store_true", help="print JSON instead of text")
    return command


def _round(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--round",
        help="MLPerf round whose rules to apply, such as v5.1 (default: found from the "
        "directory's name, the benchmark, the official checker and the date)",
    )


def _cost(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--cost_per_hour",
        type=float,
        metavar="X",
        help="price of an hour of a whole system, for the cost to target (default: as recorded)",
    )


def _formats(command: argparse.ArgumentParser) -> None:
    command.add_argument("--markdown", action="store_true", help="print Markdown")
    command.add_argument("--csv", action="store_true", help="print CSV")


def _paths(command: argparse.ArgumentParser, name: str, metavar: str, text: str) -> None:
    command.add_argument(name, nargs="+", type=Path, metavar=metavar, help=text)


def _collect(commands: Any) -> None:
    command = _command(
        commands,
        "collect",
        "Make N runs, each in its own process with its own seed",
        "The same command resumes a collection that was killed. A failed run is kept and counts "
        "as not converged; an interrupted run is repeated, and a killed one up to twice. Arguments "
        "after -- are passed to the recipe's fit. Exit status 0: all runs converged, or they make "
        "a valid result.",
    )
    command.usage = "python -m scoring collect RECIPE --runs N [options] [-- fit arguments]"
    command.add_argument("recipe", type=Path, help="the recipe, such as recipes/unet3d.py")
    command.add_argument(
        "--runs", type=int, required=True, metavar="N", help="total number of runs"
    )
    command.add_argument(
        "--parallel", type=int, metavar="P", help="runs at a time (default: 1; --slurm: all)"
    )
    command.add_argument(
        "--output_root", type=Path, help="output directory (default: runs/collect-<recipe>)"
    )
    command.add_argument(
        "--slurm", action="store_true", help="print an sbatch script: an array of the missing runs"
    )
    command.add_argument("--submit", action="store_true", help="with --slurm: submit it as well")
    _round(command)


def _check(commands: Any) -> None:
    command = _command(
        commands,
        "check",
        "The official compliance checker's verdict per run, in plain words",
        "Also checks what the official tools leave out: evaluation schedule, stopping at the "
        "target, unique seeds. Works on logs of any program.",
    )
    _paths(command, "run", "RUN", "run directories, directories of them, or log files")
    _round(command)


def _score(commands: Any) -> None:
    command = _command(
        commands,
        "score",
        "Drop-and-mean score, spread and convergence test",
        "Reads run directories, results/SYSTEM/BENCHMARK/result_*.txt trees and plain logs.",
    )
    _paths(command, "folder", "DIR", "run directories, submission trees or log files")
    command.add_argument(
        "--official", action="store_true", help="also score with the official tools"
    )
    _formats(command)
    _round(command)
    _cost(command)


def _compare(commands: Any) -> None:
    from scoring.commands.filters import add_filters

    command = _command(
        commands,
        "compare",
        "Results side by side, and why one is faster: your own, published ones, or rounds",
        "\n\n  compare A B               two of your results: which is faster, luck or speed\n"
        "  compare A --round v5.0    your result among a round's published systems\n"
        "  compare v0.7 v1.0         two rounds: the best result of each benchmark\n"
        "  compare resnet            a benchmark through all rounds\n"
        "  compare v5.0 --submitter NVIDIA --scaling    the sizes of one submitter\n"
        "  compare v5.0 --benchmark bert --count 8      the published results that pass filters\n\n"
        "Several results in a directory get a summary, different networks a scoreboard.",
    )
    _paths(command, "result", "RESULT", "directories, rounds or names of benchmarks")
    command.add_argument("--round", help="compare with this published round")
    command.add_argument("--scaling", action="store_true", help="efficiency over system sizes")
    _cost(command)
    _formats(command)
    command.add_argument("--plot", type=Path, metavar="FILE", help="also draw it: .png or .svg")
    add_filters(command)


def _package(commands: Any) -> None:
    command = _command(
        commands,
        "package",
        "Write the official submission tree and run the official checkers on it",
        "\n\nDivisions: closed (the reference's model, data and rules), open (anything else).\n"
        "Availability:\n"
        "  cloud     available: rented by others today, on released software\n"
        "  onprem    available: bought by others today, on released software\n"
        "  preview   available within 180 days or by the next round; then resubmitted\n"
        "  research  anything else (RDI): research, development or internal",
    )
    _paths(command, "folder", "DIR", "directories of scored runs")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new directory")
    command.add_argument("--org", required=True, help="the submitting organisation")
    command.add_argument("--system", required=True, help="short name of the system, no spaces")
    command.add_argument(
        "--availability", choices=["cloud", "onprem", "preview", "research"], default="research"
    )
    command.add_argument(
        "--system_json",
        type=Path,
        metavar="FILE",
        help="JSON of system description fields",
    )
    command.add_argument(
        "--source", type=Path, metavar="DIR", help="code to include (default: this checkout)"
    )
    _round(command)


def _report(commands: Any) -> None:
    command = _command(
        commands,
        "report",
        "One self-contained HTML page",
        "It loads nothing and has no script; light and dark, for phone, screen or paper.",
    )
    _paths(command, "folder", "DIR", "run directories, submission trees or log files")
    command.add_argument(
        "--out", type=Path, metavar="FILE", help="output file (default: DIR/report.html)"
    )
    _round(command)
    _cost(command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments; those of the process by default.

    Returns:
        Exit status: 0 passes, 1 breaks the rules or failed, 2 usage error, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # argparse cannot separate the recipe's arguments from ours, so they are split off first.
    cut = arguments.index("--") if arguments[:1] == ["collect"] and "--" in arguments else None
    args = parser().parse_args(arguments[:cut])
    args.fit_arguments = [] if cut is None else arguments[cut + 1 :]
    try:
        _check_price(getattr(args, "cost_per_hour", None))
        command = importlib.import_module(COMMANDS[args.command])
        return int(command.run(args))
    except BrokenPipeError:
        # The reader (head, less) exited: not an error, but nothing may be flushed to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"scoring {args.command}: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(plain(f"scoring {args.command}: {_describe(error)}"), file=sys.stderr)
        return 2


def _check_price(cost_per_hour: float | None) -> None:
    if cost_per_hour is not None and not 0 <= cost_per_hour < math.inf:
        raise ValueError(f"--cost_per_hour {cost_per_hour}: give 0 or more, in any currency")


def _describe(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)
