"""Find the class or function that a flag names, or say in one line what to write instead."""

from __future__ import annotations

import difflib
import pkgutil
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from modules.common.moved import new_path
from recipes.cli.presets import RECIPES
from recipes.cli.usage import UsageError

# Packages whose name on the index is another than the module's.
DISTRIBUTIONS = {"cv2": "opencv-python", "PIL": "pillow", "skimage": "scikit-image"}
DISTRIBUTIONS |= {"sklearn": "scikit-learn", "yaml": "pyyaml"}
NO_MODULE = re.compile(r"No module named '([\w.]+)'")
SEARCHED = "searched installed packages, PYTHONPATH and the current directory"


def find(name: str, flag: str) -> Any:
    """Import what a dotted path names.

    Args:
        name: Such as ``my_lab.nets.UNet``.
        flag: The flag that gave it, for messages.

    Returns:
        The class, function or other object.

    Raises:
        UsageError: One line: what is wrong with the path, and the likely right one.
    """
    if not re.fullmatch(r"\w+(\.\w+)+", name) or name.endswith(".py"):
        raise UsageError(f"{flag}: {_other_form(name)}")
    parts = new_path(name).split(".")
    target = _import(parts[:1], name, flag)
    for number, part in enumerate(parts[1:], 2):
        inner = _attribute(target, part, name, flag)
        if inner is None and isinstance(target, ModuleType):
            inner = _import(parts[:number], name, flag, parent=target)
        if inner is None:
            raise UsageError(f"{flag}: {_no_attribute(target, part, parts[: number - 1])}")
        target = inner
    return target


def missing_package(error: BaseException | None) -> str | None:
    """Return the package whose absence an error or one of its causes reports."""
    while error is not None:
        module = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
        match = NO_MODULE.search(str(error))
        if module or match:
            top = (module or match[1]).partition(".")[0]  # type: ignore[index]
            return DISTRIBUTIONS.get(top, top)
        error = error.__cause__ or error.__context__
    return None


def reason(error: BaseException) -> str:
    """Return an error as one line with its type."""
    lines = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {lines[0]}"


def _other_form(name: str) -> str:
    """Say how a file or a bare class name is written as a dotted path."""
    file, _, wanted = name.rpartition(":") if ":" in name else (name, "", "")
    if file.endswith(".py") or "/" in name:
        path = Path(file)
        if file.endswith(".py") and not path.is_file():
            return f"there is no file {file}"
        dotted = ".".join([path.stem, wanted or (_defined(path) or ["Net"])[0]])
        if path.parent.resolve() == Path.cwd():
            return f"{name} is a file; give the dotted path, {dotted}"
        return (
            f"{name} is a file; give the dotted path, {dotted}, and run with "
            f"PYTHONPATH={path.parent}"
        )
    places = [f"{path.stem}.{name}" for path in _files_here() if name in _defined(path)]
    if places:
        return f"{name} is not a dotted path; did you mean {' or '.join(places)}?"
    return f"{name} is not a dotted path such as my_lab.nets.{name or 'Net'}"


def _import(parts: Sequence[str], name: str, flag: str, parent: Any = None) -> Any:
    """Import a module; ``None`` if the parent, an imported module, has no such module."""
    dotted = ".".join(parts)
    try:
        return import_module(dotted)
    except ModuleNotFoundError as error:
        if error.name not in (dotted, *(".".join(parts[:i]) for i in range(1, len(parts)))):
            raise _needs(name, flag, error) from error
        if parent is not None:
            return None
        near = _nearest_module(parts[0], name)
        text = f"; did you mean {near}?" if near else f"; {SEARCHED}"
        raise UsageError(f"{flag}: cannot import {name} ({error}){text}") from error
    except Exception as error:  # whatever the module's own code raises
        raise _needs(name, flag, error) from error


def _attribute(target: Any, part: str, name: str, flag: str) -> Any:
    try:
        return getattr(target, part, None)
    except Exception as error:  # packages that import lazily, such as transformers
        raise _needs(name, flag, error) from error


def _needs(name: str, flag: str, error: Exception) -> UsageError:
    if package := missing_package(error):
        return UsageError(f"{flag}: {name} needs {package}: pip install {package}")
    return UsageError(f"{flag}: cannot import {name} ({reason(error)}); --debug shows where")


def _no_attribute(target: Any, part: str, parts: Sequence[str]) -> str:
    """Say what an object has instead, and which file it is where another was meant."""
    dotted = ".".join(parts)
    if not isinstance(target, ModuleType):
        return f"{dotted} has no {part}"
    file = Path(getattr(target, "__file__", None) or dotted)
    mine = [path for path in _files_here(parts[0]) if path.resolve() != file.resolve()]
    if file.parent == RECIPES:
        return (
            f"{dotted} has no {part}: it is the recipe {file}; rename your module or run from "
            "another directory"
        )
    if len(parts) == 1 and mine and file.stem != "__init__" or mine and part in _defined(mine[0]):
        return f"{dotted} has no {part}: {file} comes before {mine[0].name}; rename yours"
    known = [key for key in dir(target) if callable(getattr(target, key, None))]
    if hasattr(target, "__path__"):
        known += [module.name for module in pkgutil.iter_modules(target.__path__)]
    if near := difflib.get_close_matches(part, known, n=1):
        return f"{dotted} has no {part}; did you mean {dotted}.{near[0]}?"
    own = [key for key in known if getattr(getattr(target, key), "__module__", "") == dotted][:5]
    return f"{dotted} ({file}) has no {part}" + (f"; it has {', '.join(own)}" if own else "")


def _nearest_module(module: str, name: str) -> str | None:
    """Return the likely dotted path for one whose first part cannot be imported."""
    wanted = name.rpartition(".")[2]
    if (RECIPES / f"{module}.py").is_file():  # resnet.ResNet: the packages have the same names
        near = _in_package(f"modules.{module}", wanted)
        return near or f"recipes.{module}.{wanted}"
    modules = [found.name for found in pkgutil.iter_modules()]
    near_names = difflib.get_close_matches(module, modules, n=1, cutoff=0.75)
    return f"{near_names[0]}{name.removeprefix(module)}" if near_names else None


def _in_package(package: str, wanted: str) -> str | None:
    try:
        target = getattr(import_module(package), wanted)
    except (ImportError, AttributeError):
        try:
            target = getattr(import_module(f"{package}.net"), wanted)
        except (ImportError, AttributeError):
            return None
    return f"{target.__module__}.{wanted}"


def _files_here(stem: str = "*") -> list[Path]:
    return sorted([*Path.cwd().glob(f"{stem}.py"), *Path.cwd().glob(f"{stem}/__init__.py")])


def _defined(path: Path) -> list[str]:
    """Return the classes and functions that a file defines, found in its text."""
    try:
        return re.findall(r"^(?:class|def) (\w+)", path.read_text(errors="replace"), re.MULTILINE)
    except OSError:
        return []
