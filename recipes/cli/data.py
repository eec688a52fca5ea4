"""The commands that need the data module only: prepare and doctor."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from recipes.cli.arguments import Arguments
from recipes.cli.benchmark import Benchmark
from recipes.cli.config_file import read_config
from recipes.cli.data_check import OPEN, describe
from recipes.cli.doctor import checkpoint_problem, examine, prepared_folder
from recipes.cli.doing import doing
from recipes.cli.help import add_help_all, print_help_if_asked
from recipes.cli.jsonargparse_private import long_flags
from recipes.cli.presets import demo_preset
from recipes.cli.resume_line import script
from recipes.cli.screen import visible, wrap_to_terminal
from recipes.cli.shards import check_commands
from recipes.cli.submission import Submission
from recipes.cli.usage import UsageError, explain, unknown


def prepare(benchmark: Benchmark, arguments: Arguments) -> int:
    """Check and preprocess the data; restartable. Problems of the data are a ``ValueError``."""
    datamodule = data_module(benchmark, "prepare", arguments).data
    with doing("checking and preparing the data"):
        datamodule.prepare()
    if getattr(datamodule, "root", None) is not None and (line := checkpoint_problem(benchmark)):
        print(wrap_to_terminal(f"Note: {line}"))
    if lines := datamodule.differences():
        text = f"Note: {describe(benchmark, datamodule, lines)}; fit trains on it with {OPEN}"
        print(wrap_to_terminal(text))
    return 0


def doctor(benchmark: Benchmark, arguments: Arguments) -> int:
    """Print what this machine and this data have and lack; return 1 if anything is missing."""
    config = data_module(benchmark, "doctor", arguments)
    datamodule, division = config.data, config.submission.division
    lacking = 0
    with doing("examining this machine and the data"):
        for finding in examine(benchmark, datamodule, own_data=division == "open"):
            print(finding)
            lacking += finding.kind == "lacks"
    recipe = f"python {shlex.quote(script(benchmark.name))}"
    flags = f" {shlex.join(arguments.words)}" if arguments.words else ""
    if lacking:
        problems = "problem" if lacking == 1 else f"{lacking} problems"
        print(visible(f"Not ready: fix the {problems} above, then run {recipe} doctor{flags}"))
        return 1
    root = getattr(datamodule, "root", None)
    prepared = prepared_folder(Path(getattr(datamodule, "prepared_dir", None) or root or "."))
    command = "fit" if root is None or prepared is not None else "prepare"
    if command == "prepare":  # it takes own data without a word
        words = arguments.without("--submission.division").words
        flags = f" {shlex.join(words)}" if words else ""
    print(visible(f"Ready: {recipe} {command}{flags}"))
    return 0


def data_module(benchmark: Benchmark, command: str, arguments: Arguments) -> Any:
    """Parse flags and the data sections of configuration files, and build the data module.

    Args:
        benchmark: The data sheet.
        command: ``prepare`` or ``doctor``.
        arguments: The words after it.

    Returns:
        ``data``, the data module, and for ``doctor`` ``submission``.
    """
    parser = _parser(benchmark, command)
    print_help_if_asked(parser, benchmark, command, arguments)
    known = long_flags(parser)
    for path in _configurations(benchmark, arguments):
        for key, value in _data_section(path).items():
            if f"--data.{key}" not in known:
                raise UsageError(f"{path}: {unknown(f'data.{key}', known, arguments)}")
            parser.set_defaults({f"data.{key}": value})
    try:
        config = parser.parse_args(list(arguments.words))
    except ArgumentError as error:
        raise ArgumentError(None, explain(str(error), known, arguments)) from error
    check_commands(config.data, arguments)
    return parser.instantiate(config)


def _parser(benchmark: Benchmark, command: str) -> ArgumentParser:
    parser = ArgumentParser(
        prog=f"{benchmark.name}.py {command}",
        exit_on_error=False,
        allow_abbrev=False,
        description=f"{command}: {benchmark.dataset}",
    )
    # Not jsonargparse's ActionConfigFile: the other groups of the file are unknown here.
    text = "YAML file of settings. Only its data section is read."
    parser.add_argument("-c", "--config", type=Path | None, default=None, help=text)
    add_help_all(parser)
    parser.add_class_arguments(benchmark.datamodule_class(), "data")
    if command == "doctor":  # own data is a problem or not, as in fit
        parser.add_class_arguments(Submission, "submission")
    return parser


def _configurations(benchmark: Benchmark, arguments: Arguments) -> list[str]:
    own = ("--config", "--data.root", "--data.raw", "--data.shards")
    if any(flag in arguments for flag in own):
        return arguments.values("--config")
    return [str(demo_preset(benchmark))]


def _data_section(path: str) -> dict[str, Any]:
    section = read_config(path).get("data") or {}
    if not isinstance(section, dict):
        raise UsageError(f"--config {path}: data is {section!r}, not a section of settings")
    return section
