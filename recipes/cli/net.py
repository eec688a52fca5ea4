"""The network as the command line describes it: its arguments checked, the data's facts added."""

from __future__ import annotations

import difflib
import functools
import inspect
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser
from torch import nn

from recipes.cli.arguments import Arguments
from recipes.cli.find import find, missing_package, reason
from recipes.cli.jsonargparse_private import long_flags
from recipes.cli.net_arguments import handed_over, names_of
from recipes.cli.net_setting import FLAG, NetSetting
from recipes.cli.usage import UsageError, explain

UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")
LINE = 160  # characters of arguments in the line about the network


class Net:
    """Builds the network when called; what a module takes as its ``net``.

    Args:
        setting: Name and arguments.
        reference: The recipe's own network, a class.

    Attributes:
        facts: Returns what the data fix, fact -> value; asked when the network is built.
        arguments: Arguments as built, once it is.
        printed: Whether ``NetLine`` has printed it.
    """

    def __init__(self, setting: NetSetting, reference: Callable[..., nn.Module]) -> None:
        self.is_reference = setting.name is None or path_of(reference) == setting.name
        self.target = reference if self.is_reference else find(str(setting.name), FLAG)
        self.name = path_of(reference) if self.is_reference else str(setting.name)
        self.short_name = self.name.rpartition(".")[2]
        self.facts: Callable[[], Mapping[str, Any]] = dict
        self.arguments: dict[str, Any] = {}
        self.printed = False
        _check_callable(self.target, self.name)
        self._known = _defaults(self.target)
        self._given, self._plain = self._parse(setting)

    def __call__(self) -> nn.Module:
        """Build the network; a UsageError says what is missing or why that failed."""
        arguments = dict(self._given)
        facts = self.facts()
        if self.is_reference:
            self._check_classes(facts)
        handed = handed_over(facts, self._known, list(arguments))
        self._plain |= {name: _plain(value) for name, value in handed.items()}
        arguments |= handed
        if missing := [name for name in _required(self.target) if name not in arguments]:
            flags = ", ".join(f"{FLAG}.{name}" for name in missing)
            raise UsageError(f"{FLAG}: {self.name} needs {flags}")
        try:
            net, tried = self._build(arguments, facts)
        except UsageError:
            raise
        except ValueError as error:
            raise UsageError(f"{FLAG}: {error}" if not self.is_reference else str(error)) from error
        except Exception as error:
            raise self._failure(error, arguments) from error
        if not isinstance(net, nn.Module):
            kind = type(net).__name__
            raise UsageError(f"{FLAG}: {self.name} returned a {kind}, not a torch.nn.Module")
        self._plain |= tried
        self.arguments = {**self._known, **arguments, **tried}
        return net

    def setting(self) -> dict[str, Any]:
        """Return the network as ``--config`` reads it; the reference with all its arguments."""
        defaults = _plain(self._known) if self.is_reference else {}
        return {"class_path": self.name, "init_args": {**defaults, **self._plain}}

    def describe(self, parameters: int | None) -> str:
        """Return the network as it was built, such as ``my.Net(width=48), 1.2 M parameters``."""
        own = [name for name in self.arguments if name in self._plain]
        rest = [name for name in self.arguments if name not in self._plain]
        shown = self._shown()
        words: list[str] = []
        length = 0
        for name in [*own, *rest]:
            word = f"{name}={_short(shown[name])}"
            length += len(word)
            if length > LINE and words and name not in self._plain:
                words.append(f"{len(self.arguments) - len(words)} more by default")
                break
            words.append(word)
        size = "" if parameters is None else f", {_count(parameters)} parameters"
        return f"{self.name}({', '.join(words)}){size}"

    def record(self) -> dict[str, Any]:
        """Return the class and its arguments as built, for ``run.json``."""
        return {"class": self.name, "arguments": self._shown()}

    def _shown(self) -> dict[str, Any]:
        """Return the arguments as the user wrote them, the others as JSON holds them."""
        return {**_plain(self.arguments), **self._plain}

    def _parse(self, setting: NetSetting) -> tuple[dict[str, Any], dict[str, Any]]:
        """Check the given arguments; return their values and the same as plain values."""
        free = _takes_any(self.target)
        unknown = [name for name in setting.given if name not in self._known]
        if unknown and not free:
            raise UsageError(f"{FLAG}: {self._no_argument(unknown[0])}")
        parser = _parser(self.target, skip=set(self._known) - set(setting.given))
        for name in unknown:
            parser.add_argument(f"{FLAG}.{name}", type=Any)
        words = [
            f"{FLAG}.{k}={v if isinstance(v, str) else json.dumps(v, default=str)}"
            for k, v in setting.init_args.items()
        ]
        words += setting.words
        try:
            config = parser.parse_args(words)
            plain = yaml.safe_load(parser.dump(config, skip_unset=False, skip_validation=True))
            values = parser.instantiate(config)
        except ArgumentError as error:
            text = explain(str(error), long_flags(parser), Arguments(words))
            raise UsageError(text) from error
        except ValueError as error:
            raise UsageError(f"{FLAG}: {reason(error)}") from error
        if not setting.given:
            return {}, {}
        return dict(vars(values.model.net)), plain["model"]["net"]

    def _check_classes(self, facts: Mapping[str, Any]) -> None:
        """Raise if the user gives fewer classes than the data has; more are allowed."""
        given, wanted = self._given.get("num_classes"), facts.get("num_classes")
        if given is not None and wanted is not None and given < wanted:
            raise UsageError(f"{FLAG}.num_classes is {given}, but the data has {wanted} classes")

    def _no_argument(self, name: str) -> str:
        text = f"{self.name} has no argument {name}"
        if near := difflib.get_close_matches(name, list(self._known), n=1):
            return f"{text}; did you mean {FLAG}.{near[0]}?"
        known = ", ".join(list(self._known)[:8])
        return f"{text}; it has {known}" if known else f"{text}; it takes none"

    def _build(
        self, arguments: Mapping[str, Any], facts: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Call the class or function.

        A function that passes any argument on does not say which it has: the data's facts are
        tried under each name.
        """
        taken = set(arguments)
        left = {fact: list(names_of(fact)) for fact in facts if not taken & {*names_of(fact)}}
        if not _takes_any(self.target) or inspect.isclass(self.target):
            left = {}
        while True:
            tried = {names[0]: facts[fact] for fact, names in left.items()}
            try:
                return self.target(**arguments, **tried), tried
            except TypeError as error:
                match = UNEXPECTED.search(str(error))
                refused = [f for f, names in left.items() if match and names[0] == match[1]]
                if not refused:
                    raise
                del left[refused[0]][0]
                left = {fact: names for fact, names in left.items() if names}

    def _failure(self, error: Exception, arguments: Mapping[str, Any]) -> UsageError:
        if package := missing_package(error):
            text = f"{self.short_name} needs {package}: pip install {package}"
            return UsageError(f"{FLAG}: {text}")
        words = ", ".join(f"{name}={_plain(value)}" for name, value in arguments.items())
        text = f"{self.name}({words}) failed: {reason(error)}; --debug shows where"
        return UsageError(f"{FLAG}: {text}")


def path_of(target: Any) -> str:
    """Return the dotted path of a class or function."""
    return f"{target.__module__}.{target.__qualname__}"


def arguments_page(target: Any, name: str) -> str:
    """Return the help of ``--model.net.help``: the arguments of a class or function."""
    text = _parser(target).format_help().partition("\n\n")[2]
    # jsonargparse's own lines: the title of a class without docstring, a file for the group.
    text = re.sub(r"^<class .*>:\n|^ *--model\.net CONFIG .*\n", "", text, flags=re.MULTILINE)
    return f"{name}\n{text}".rstrip()


def _parser(target: Any, skip: set[str] | None = None) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False, add_help=False)
    options: dict[str, Any] = {"skip": set(skip or ()), "fail_untyped": False}
    key = FLAG.removeprefix("--")
    if inspect.isclass(target):
        parser.add_class_arguments(target, key, instantiate=False, **options)
    elif inspect.isroutine(target):
        parser.add_function_arguments(target, key, **options)
    else:  # a functools.partial or another object that can be called
        for name, default in _signature(target).items():
            if name not in options["skip"]:
                parser.add_argument(f"{FLAG}.{name}", type=Any, default=default)
    return parser


def _defaults(target: Any) -> dict[str, Any]:
    """Return the arguments of a class or function with their defaults."""
    try:
        net = _parser(target).get_defaults().get("model.net")
    except Exception:  # jsonargparse cannot read every signature
        net = None
    return dict(vars(net)) if net is not None else _signature(target)


def _signature(target: Any) -> dict[str, Any]:
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return {}
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return {p.name: None if p.default is p.empty else p.default for p in named}


def _required(target: Any) -> list[str]:
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return []
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return [p.name for p in named if p.default is p.empty]


def _takes_any(target: Any) -> bool:
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(p.kind is p.VAR_KEYWORD for p in parameters)


def _check_callable(target: Any, name: str) -> None:
    if inspect.isclass(target) and not issubclass(target, nn.Module):
        raise UsageError(f"{FLAG}: {name} is a class, but not a torch.nn.Module")
    if isinstance(target, nn.Module):
        raise UsageError(
            f"{FLAG}: {name} is a network already built; name its class, or a function that "
            "builds it"
        )
    if not callable(target):
        raise UsageError(f"{FLAG}: {name} is a {type(target).__name__}, not a class or function")


def _plain(value: Any) -> Any:
    """Return a value as JSON holds it; what JSON cannot hold as its name or its text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, functools.partial):
        return path_of(value.func)
    return path_of(value) if hasattr(value, "__qualname__") else str(value)


def _short(value: Any) -> Any:
    if isinstance(value, Mapping) and "class_path" in value:
        return value["class_path"]
    if isinstance(value, list) and len(value) > 8:
        return f"[{value[0]}, {value[1]}, ..., {value[-1]}] ({len(value)} values)"
    return value


def _count(number: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
