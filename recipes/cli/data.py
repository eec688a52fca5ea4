"""The commands that need the data module only: prepare and doctor."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from recipes.cli.benchmark import Benchmark
from recipes.cli.doctor import examine, prepared_folder
from recipes.cli.presets import demo_preset
from recipes.cli.resume import option, without
from recipes.cli.screen import fitted
from recipes.cli.usage import UsageError, explain, unknown


def prepare(benchmark: Benchmark, args: list[str]) -> int:
    """Check and preprocess the data; a killed run goes on where it was.

    Args:
        benchmark: The data sheet.
        args: Arguments after ``prepare``.

    Returns:
        0.

    Raises:
        ValueError: One line per problem in the data.
    """
    _datamodule(benchmark, "prepare", args).prepare()
    return 0


def doctor(benchmark: Benchmark, args: list[str]) -> int:
    """Print what this machine and this data have and lack.

    Args:
        benchmark: The data sheet.
        args: Arguments after ``doctor``.

    Returns:
        0 if nothing stands in the way, else 1.
    """
    datamodule = _datamodule(benchmark, "doctor", args)
    root = getattr(datamodule, "root", None)
    lacking = 0
    for finding in examine(benchmark, datamodule):
        print(finding)
        lacking += finding.kind == "lacks"
    again = f"python recipes/{benchmark.name}.py"
    flags = f" {shlex.join(args)}" if args else ""
    if lacking:
        points = "point" if lacking == 1 else f"{lacking} points"
        print(fitted(f"Not ready: mend the {points} above, then run {again} doctor{flags}"))
        return 1
    place = Path(getattr(datamodule, "prepared_dir", None) or root or ".")
    ready = root is None or prepared_folder(place) is not None
    print(fitted(f"Ready: {again} {'fit' if ready else 'prepare'}{flags}"))
    return 0


def _data_section(preset: str | None) -> dict[str, Any]:
    """Settings of the data in a configuration file."""
    if preset is None:
        return {}
    try:
        content = yaml.safe_load(Path(preset).read_text()) or {}
        return dict(content.get("data") or {})
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UsageError(f"--config {preset}: {reason}") from error


def _datamodule(benchmark: Benchmark, command: str, args: list[str]) -> Any:
    parser = ArgumentParser(
        prog=f"{benchmark.name}.py {command}",
        exit_on_error=False,
        allow_abbrev=False,
        description=f"{command}: {benchmark.dataset}",
    )
    parser.add_class_arguments(benchmark.datamodule_class(), "data")
    # A preset speaks of more than data, so only its data section is read.
    preset = option(args, "--config") or (
        None if option(args, "--data.root") else str(demo_preset(benchmark))
    )
    args = without(args, "--config")
    known = [name for action in parser._actions for name in action.option_strings]
    for key, value in _data_section(preset).items():
        if f"--data.{key}" not in known:
            raise UsageError(f"{preset}: {unknown(f'data.{key}', known, args)}")
        parser.set_defaults({f"data.{key}": value})
    try:
        config = parser.parse_args(args)
    except ArgumentError as error:
        raise ArgumentError(None, explain(str(error), known, args)) from error
    return parser.instantiate(config).data
