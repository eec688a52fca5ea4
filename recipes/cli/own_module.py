"""``--module my.Module``: a subclass of the recipe's module, with its own loss or optimizer."""

from __future__ import annotations

import inspect
from typing import Any

from recipes.cli.arguments import Arguments
from recipes.cli.benchmark import Benchmark
from recipes.cli.find import find
from recipes.cli.net_setting import contents
from recipes.cli.usage import UsageError

FLAG = "--module"


def module_class(benchmark: Benchmark, arguments: Arguments) -> type[Any]:
    """Return the class that trains: the recipe's, or the subclass that is named."""
    own = benchmark.module_class()
    name = arguments.value(FLAG)
    if name is None:
        named = [content["module"] for content in contents(arguments) if content.get("module")]
        name = named[-1] if named else None
    if name is None:
        return own
    wanted = find(str(name), FLAG)
    if not (inspect.isclass(wanted) and issubclass(wanted, own)):
        raise UsageError(f"{FLAG}: {name} is not a subclass of {benchmark.module}")
    return wanted


def reference_net(benchmark: Benchmark, module: type[Any]) -> Any:
    """Return the network that a module builds by default, the recipe's unless it has its own."""
    for one in (module, benchmark.module_class()):
        parameter = inspect.signature(one).parameters.get("net")
        if inspect.isclass(getattr(parameter, "default", None)) and parameter.default is not (  # type: ignore[union-attr]
            inspect.Parameter.empty
        ):
            return parameter.default  # type: ignore[union-attr]
    raise AssertionError(f"{benchmark.module} has no default network")
