"""Which network ``--model.net`` means: name and arguments from all sources, the last one wins."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from modules.common.moved import new_path
from recipes.cli.arguments import Arguments, Option
from recipes.cli.usage import UsageError

FLAG = "--model.net"
INNER = ("init_args", "dict_kwargs")  # jsonargparse's own keys, in files and in longer flags


@dataclass(frozen=True)
class NetSetting:
    """A network by name, with the arguments that the user gave it.

    Naming another class drops the arguments that an earlier source gave, as they were meant for
    the former one: the new class starts from its own defaults.
    """

    name: str | None = None
    """Dotted path; ``None`` is the recipe's own network."""
    init_args: Mapping[str, Any] = field(default_factory=dict)
    """Arguments from configuration files."""
    words: tuple[str, ...] = ()
    """Arguments from the command line, ``--model.net.width``, ``48`` ..."""

    @property
    def given(self) -> list[str]:
        """Names of all arguments that the user gave."""
        flags = [word.partition("=")[0] for word in self.words if word.startswith(f"{FLAG}.")]
        names = [flag.removeprefix(f"{FLAG}.").partition(".")[0].rstrip("+") for flag in flags]
        return list(dict.fromkeys([*self.init_args, *names]))

    def updated(self, net: Any, reference: str) -> NetSetting:
        """Add what a later source says: a name, or a mapping as in a configuration file."""
        later: Any = {"class_path": net} if isinstance(net, str) else net
        if not isinstance(later, Mapping):
            raise UsageError(f"{FLAG}: got {net}, allowed: a dotted path or class_path/init_args")
        name = later.get("class_path") or self.name
        name = reference if name == reference.rpartition(".")[2] else name
        arguments = {k: v for key in INNER for k, v in (later.get(key) or {}).items()}
        same = new_path(name or reference) == new_path(self.name or reference)
        return NetSetting(name, {**(self.init_args if same else {}), **arguments})


def net_setting(arguments: Arguments, reference: str) -> NetSetting:
    """Collect the setting from the configuration files, in order, and then the command line."""
    setting = NetSetting()
    for content in contents(arguments):
        model = content.get("model")
        if isinstance(model, Mapping) and model.get("net") is not None:
            setting = setting.updated(model["net"], reference)
    words: list[str] = []
    for option in net_options(arguments):
        key = option.name.removeprefix(FLAG).removeprefix(".")
        inner = key.partition(".")
        if key in ("", "class_path", *INNER):
            value = yaml.safe_load(option.value or "") or {}
            setting = setting.updated({key: value} if key in INNER else value, reference)
        elif option.value is None:
            raise UsageError(f"{option.name} needs a value")
        else:
            name = inner[2] if inner[0] in INNER else key
            words.append(f"{FLAG}.{name}={option.value}")
    return NetSetting(setting.name, setting.init_args, tuple(words))


def net_value(value: Any) -> Any:
    """Read a name or a ``class_path`` mapping, as text or as a file has it."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)  # YAML would read JSON's 1e-05 as a text
    except ValueError:
        return yaml.safe_load(value)


def net_options(arguments: Arguments) -> list[Option]:
    """Return the options about the network."""
    return [o for o in arguments.options if o.name == FLAG or o.name.startswith(f"{FLAG}.")]


def contents(arguments: Arguments) -> Iterator[Mapping[str, Any]]:
    """Yield the configuration files' contents; the parser tells what is wrong with one."""
    for option in arguments.options:
        if option.name not in ("--config", "--model") or option.value is None:
            continue
        try:
            content = yaml.safe_load(Path(option.value).read_text())
        except (OSError, ValueError, RecursionError, yaml.YAMLError):
            continue
        if isinstance(content, Mapping):
            yield content if option.name == "--config" else {"model": content}
