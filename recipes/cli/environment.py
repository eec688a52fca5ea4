"""Make a process independent of its surroundings: its screen, its home, variables left over."""

from __future__ import annotations

import os
import pwd
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from datamodules.common.cache import cache_dir
from recipes.cli.usage import UsageError

MOST_SEED = 2**32 - 1
RANKS = {"RANK", "LOCAL_RANK", "WORLD_SIZE"}
USER_NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")  # where getpass looks
# Libraries that keep compiled code or lists of fonts: variable -> folder in the cache.
CACHES = {
    "NUMBA_CACHE_DIR": "numba",
    "MPLCONFIGDIR": "matplotlib",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "TRITON_CACHE_DIR": "triton",
}


class Unfailing:
    """A text stream whose failing writes are dropped: a run's result does not depend on its screen.

    Args:
        stream: The stream to write to.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):  # a full disk, or a reader such as head that has ended
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def settle() -> None:
    """Prepare a recipe's process before it imports any library."""
    _open_streams()
    _name_user()
    _find_caches()


def check_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """Check the variables that a launcher or an earlier run sets.

    Args:
        variables: The environment.

    Returns:
        Those to leave out, each with the reason; "" where there is nothing to say.

    Raises:
        UsageError: If one is no number of its kind.
    """
    dropped: dict[str, str] = {}
    for name in (*RANKS, "PL_GLOBAL_SEED"):
        value = variables.get(name)
        if value is not None and not value.strip():
            dropped[name] = ""
        elif value is not None:
            check_number(f"{name}={value}", value)
    given = {name: int(value) for name, value in variables.items() if name in RANKS - {*dropped}}
    size = given.pop("WORLD_SIZE", None)
    for name, number in given.items():
        if size is None:
            dropped[name] = f"{name}={number} is left over (no WORLD_SIZE): it is not used"
        elif number >= size:
            raise UsageError(f"{name}={number}, but WORLD_SIZE={size}; correct or unset them")
    return dropped


def check_number(what: str, text: str | int) -> None:
    """Raise if a text is not a whole number from 0 to 2^32 - 1."""
    try:
        good = 0 <= int(text) <= MOST_SEED
    except ValueError:
        good = False
    if not good:
        raise UsageError(f"{what}: not a whole number from 0 to {MOST_SEED}")


def _open_streams() -> None:
    # A file of the run would otherwise get the number of a closed stream, and its text.
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name) or open(os.devnull, "w")  # noqa: SIM115
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, Unfailing(stream))


def _name_user() -> None:
    """Give a user without an entry in /etc/passwd a name and a home, which libraries ask for."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        if not any(os.environ.get(name) for name in USER_NAMES):
            os.environ["USER"] = f"uid{os.getuid()}"
        if not os.environ.get("HOME"):
            os.environ["HOME"] = str(_private_folder())


def _find_caches() -> None:
    """Put the libraries' caches where they can be written, if the home cannot."""
    if writable(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")):
        return
    base = cache_dir() if writable(cache_dir()) else _private_folder()
    for variable, name in CACHES.items():
        os.environ.setdefault(variable, str(base / name))
    with suppress(OSError):
        Path(os.environ["MPLCONFIGDIR"]).mkdir(parents=True, exist_ok=True)


def writable(path: Path) -> bool:
    """Whether a directory can be written or created; nothing is written to find out."""
    inside = path.absolute()
    while not inside.exists():
        inside = inside.parent
    return inside.is_dir() and os.access(inside, os.W_OK | os.X_OK)


def _private_folder() -> Path:
    """Return this user's folder for temporary files, which no other user can have prepared."""
    folder = Path(tempfile.gettempdir()) / f"finishline-{os.getuid()}"
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        facts = folder.lstat()
        if folder.is_dir() and facts.st_uid == os.getuid() and not facts.st_mode & 0o022:
            return folder
    return Path(tempfile.mkdtemp(prefix="finishline-"))
