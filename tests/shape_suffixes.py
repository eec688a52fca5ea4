"""Check, while tests run, that tensors have the dimensions that their names say.

``image_BCDHW`` has five dimensions, ``counts_BK3`` three with 3 in the last. Functions of
``modules.*`` are wrapped as their file is imported, so that every importer gets the wrapped one;
only those with such a parameter are. Compiled code is traced without the check.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import inspect
import re
import sys
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch

# One character per dimension: pooled_RC77 has four.
SUFFIX = re.compile(r"_([A-Z][A-Z0-9]*)$")
ARRAYS = (torch.Tensor, np.ndarray)


def install(package: str = "modules") -> None:
    """Wrap what is imported from now on; put first, so before any test imports the package."""
    sys.meta_path.insert(0, Finder(package))


def shape_of(name: str) -> tuple[int | None, ...] | None:
    """Size of each dimension, None where it is a letter; None for a name without a suffix."""
    match = SUFFIX.search(name)
    if match is None:
        return None
    return tuple(int(x) if x.isdigit() else None for x in match[1])


def wrapped(function: FunctionType) -> FunctionType:
    """The function with its arguments checked; itself where no name has a suffix."""
    parameters = inspect.signature(function).parameters.values()
    shapes = [(i, p.name, shape_of(p.name)) for i, p in enumerate(parameters)]
    checks = [
        (index, name, len(shape), [(d, size) for d, size in enumerate(shape) if size is not None])
        for index, name, shape in shapes
        if shape is not None
    ]
    if not checks:
        return function

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling():
            for index, name, ndim, sizes in checks:
                value = args[index] if index < len(args) else kwargs.get(name)
                if not isinstance(value, ARRAYS):
                    continue
                good = value.ndim == ndim and (not sizes or fits(value, sizes))
                assert good, f"{function.__qualname__}: {name} has shape {tuple(value.shape)}"
        return function(*args, **kwargs)

    # torch.compile counts recompilations, and keeps sizes, per code: each function needs its own.
    name = f"{function.__module__}.{function.__qualname__}"
    checked.__code__ = checked.__code__.replace(co_name=name)
    return checked  # type: ignore[return-value]


def fits(value: Any, sizes: list[tuple[int, int]]) -> bool:
    return all(value.shape[dimension] == size for dimension, size in sizes)


def wrap_module(module: ModuleType) -> int:
    """Wrap the functions and methods that a module defines; the number of those wrapped."""
    count = 0
    for owner in [module, *vars(module).values()]:
        if owner is not module and not isinstance(owner, type):
            continue
        if owner is not module and owner.__module__ != module.__name__:
            continue
        for name, value in list(vars(owner).items()):
            plain = value.__func__ if isinstance(value, staticmethod | classmethod) else value
            if not isinstance(plain, FunctionType) or plain.__module__ != module.__name__:
                continue
            new: Any = wrapped(plain)
            if new is not plain:
                setattr(owner, name, new if plain is value else type(value)(new))
                count += 1
    return count


class Finder(importlib.abc.MetaPathFinder):
    """Finds the package's modules as usual and has them wrapped after they ran."""

    def __init__(self, package: str) -> None:
        self.prefix = f"{package}."

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> Any:
        if not name.startswith(self.prefix):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec


class Loader(importlib.machinery.SourceFileLoader):
    """Runs a module's file and wraps its functions."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        wrap_module(module)
