"""Patterns of shards: from what a user types to a list of addresses."""

import glob
import os
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit, urlunsplit

PIPE, WEB = "pipe:", ("http", "https")
MOST_SHARDS = 100_000
COMPARED = 1_000_000  # bytes of two shards of one size
TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
# Several patterns are joined by "::", as in webdataset; the "::" of [::1] is an address's.
_JOINED = re.compile(r"::(?![^\[]*\])")
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?\}")
_SHOWN = 200  # characters of a command in a message


def check_pattern(text: str, flag: str) -> None:
    """Check a pattern without opening anything.

    Args:
        text: The pattern.
        flag: Name of its flag, for messages.

    Raises:
        ValueError: If it is empty, has unbalanced braces, too many shards or an unknown scheme.
    """
    if not text.strip():
        raise ValueError(
            f"{flag} is empty: give a pattern such as DIR/train-{{000000..000127}}.tar"
        )
    for part in _JOINED.split(text):
        for _ in _expanded(part, flag):
            pass


def has_command(text: str | None) -> bool:
    """Return whether a pattern would run a command."""
    return any(part.strip().startswith(PIPE) for part in _JOINED.split(text or ""))


def is_directory(text: str) -> bool:
    """Return whether a pattern names a directory of prepared shards: local, or http(s)."""
    if has_command(text) or "{" in text:
        return False
    if not is_web(text):
        return os.path.isdir(local_path(text))
    last = urlsplit(text).path.rpartition("/")[2]
    return not last.endswith(TAR_ENDINGS) and "*" not in last


def expand(text: str, flag: str) -> tuple[str, ...]:
    """List the shards of a pattern; local files are looked for.

    Args:
        text: Brace patterns of local paths, http(s) addresses or ``pipe:`` commands, joined by
            ``::``. Local ones may have ``*``.
        flag: Name of its flag, for messages.

    Returns:
        One address per shard, in the pattern's order.

    Raises:
        ValueError: If it matches nothing, a file is missing, or a shard is named twice; one line.
    """
    addresses = [a for part in _JOINED.split(text) for a in _matches(part, flag)]
    missing = [a for a in addresses if is_local(a) and not os.path.exists(a)]
    if missing:
        raise ValueError(
            f"{flag} {text}: {len(missing)} of {len(addresses)} shards do not exist, the first is "
            f"{missing[0]}"
        )
    seen: set[str] = set()
    for address in addresses:
        if address in seen:
            raise ValueError(f"{flag} {text}: {show(address)} is named twice")
        seen.add(address)
    return tuple(addresses)


def check_disjoint(training: tuple[str, ...], evaluation: tuple[str, ...]) -> None:
    """Raise a ValueError of one line if a shard is for training and for evaluation.

    Local ones are also compared by content, where they are of one size.
    """
    real = {os.path.realpath(a) if is_local(a) else a for a in training}
    sizes: dict[int, list[str]] = {}
    for address in filter(is_local, training):
        if size := os.path.getsize(address):  # an empty one is refused when it is read
            sizes.setdefault(size, []).append(address)
    for address in evaluation:
        local = is_local(address)
        if (os.path.realpath(address) if local else address) in real:
            raise ValueError(
                f"{show(address)} is in data.shards and in data.val_shards: evaluation samples "
                "must not be trained on"
            )
        twins = sizes.get(os.path.getsize(address), []) if local else []
        if twin := next((other for other in twins if _same_beginning(address, other)), None):
            raise ValueError(
                f"{address} (data.val_shards) holds the same as {twin} (data.shards): evaluation "
                "samples must not be trained on"
            )


def _same_beginning(one: str, other: str) -> bool:
    """Whether two files of one size begin alike, for much longer than two shards could."""
    if os.path.samefile(one, other):
        return True
    with open(one, "rb") as file, open(other, "rb") as twin:
        return file.read(COMPARED) == twin.read(COMPARED)


def is_local(address: str) -> bool:
    """Return whether an address is a path of this machine."""
    return not (address.startswith(PIPE) or is_web(address))


def show(address: str) -> str:
    """Return an address for messages: without the query, which may hold a signature."""
    if address.startswith(PIPE):
        return address if len(address) <= _SHOWN else f"{address[:_SHOWN]} ..."
    return address.partition("?")[0] if is_web(address) else address


def base_name(address: str) -> str:
    """Return a shard's file name, by which lists of sizes name it; empty for a command."""
    if address.startswith(PIPE):
        return ""
    path = unquote(urlsplit(address).path) if is_web(address) else address
    return PurePosixPath(path).name


def sibling(address: str, name: str) -> str:
    """Return the address of another file in a shard's directory; empty for a command."""
    if address.startswith(PIPE):
        return ""
    if not is_web(address):
        return os.path.join(os.path.dirname(address), name)
    parts = urlsplit(address)
    return urlunsplit(parts._replace(path=f"{parts.path.rpartition('/')[0]}/{name}"))


def local_path(address: str) -> str:
    """Return the path of a local address, without ``file://`` and with the home directory."""
    return os.path.expanduser(re.sub(r"^file:(//)?", "", address))


def _matches(part: str, flag: str) -> Iterator[str]:
    for address in _expanded(part, flag):
        if not is_local(address) or os.path.exists(address) or not glob.has_magic(address):
            yield address
        elif found := sorted(glob.glob(address)):
            yield from found
        else:
            raise ValueError(f"{flag} {part}: matches no file")


def _expanded(part: str, flag: str) -> Iterator[str]:
    """Expand the braces of one pattern, after a look at its scheme and size."""
    import braceexpand

    part = part.strip()
    if not part.startswith(PIPE):
        _check_scheme(part, flag)
    number = 1
    for first, last, step in _RANGE.findall(part):
        number *= 1 + abs(int(last) - int(first)) // max(1, abs(int(step or 1)))
    if number > MOST_SHARDS:
        raise ValueError(f"{flag} {part}: {number:,} shards; at most {MOST_SHARDS:,} are read")
    try:
        for address in braceexpand.braceexpand(part, escape=False):
            yield address if part.startswith(PIPE) or is_web(part) else local_path(address)
    except ValueError as error:
        raise ValueError(f"{flag} {part}: {error}") from error


def _check_scheme(part: str, flag: str) -> None:
    scheme, found, _ = part.partition("://")
    if not found or scheme == "file":
        return
    if scheme not in WEB:
        tool = {"s3": "aws s3 cp ADDRESS -", "gs": "gsutil cat ADDRESS"}.get(scheme, "COMMAND")
        raise ValueError(
            f"{flag} {part}: {scheme}:// is not read; give a path, http(s):// or, on the command "
            f"line, '{PIPE}{tool}'"
        )
    place = urlsplit(part)
    if not place.hostname:
        raise ValueError(f"{flag} {part}: has no host")
    if "@" in place.netloc:
        raise ValueError(
            f"{flag} {show(part).replace(place.netloc, place.netloc.rpartition('@')[2])}: leave "
            f"out user and password; on the command line '{PIPE}curl -sfu USER ADDRESS' logs in"
        )


def is_web(address: str) -> bool:
    """Return whether an address is an http(s) one."""
    return address.startswith(tuple(f"{scheme}://" for scheme in WEB))
