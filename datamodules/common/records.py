"""Manifest and records of a prepared folder: how it was made, and from which raw files."""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.common.atomic import atomic_file, write_json
from datamodules.common.progress import stage
from datamodules.common.reading import unreadable

MANIFEST, RECORDS = "manifest.json", "records.jsonl"
HASH_DIGITS = 32  # of 64: notices changes, and keeps the records of a million files small
Content = dict[str, Any]
Upgrade = Callable[[Content], Content | None]
_HEADER_KEYS = {"unit", "dataset", "format", "settings"}
_RECORD_KEYS = {"unit", "fingerprint", "files", "result", "raw"}
_SEAL = "seal"  # the manifest's key for the hash of everything else in it
# A raw file that is not there any more is no change; one that cannot be read is an error.
_ABSENT = {errno.ENOENT, errno.ENOTDIR}


class OutdatedError(ValueError):
    """A folder that an earlier version prepared and that this one cannot read."""


class RawFile(NamedTuple):
    """A raw file as it was when it was read."""

    path: str
    size: int
    mtime_ns: int
    sha256: str  # the first 32 hexadecimal digits


def raw_file(path: Path, sha256: str = "") -> RawFile:
    """Record a raw file; its content is read here unless the caller has hashed what it read."""
    facts = path.stat()
    digest = (sha256 or file_hash(path))[:HASH_DIGITS]
    return RawFile(str(path), facts.st_size, facts.st_mtime_ns, digest)


def read_manifest(
    folder: Path,
    dataset: str,
    *,
    version: int,
    upgrade: Upgrade | None = None,
    replace: bool = False,
    keys: Collection[str] = (),
) -> Content | None:
    """Read the manifest of a prepared folder; opens no other file.

    Args:
        folder: Prepared folder; may not exist.
        dataset: Data set that it must belong to.
        version: Format that it must have.
        upgrade: Turns a manifest of an earlier format into today's; None where that cannot be.
        replace: Whether a folder of another version is to be prepared again: gives None.
        keys: Facts that it must have; one without them is damaged.

    Returns:
        Its content, with ``settings``; None if there is no manifest or it is damaged.

    Raises:
        OutdatedError: If the folder has to be prepared again by this version.
        ValueError: If it belongs to another data set, or cannot be read.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
        return None
    except OSError as error:
        raise unreadable(path, error) from error
    if not isinstance(content, dict) or not (upgrade or "format" in content):
        return None
    seal = content.pop(_SEAL, None)
    if (owner := content.get("dataset", dataset)) != dataset:
        raise ValueError(
            f"{path} belongs to {owner}: give another directory with --data.prepared_dir"
        )
    if content.get("dataset") and content.get("format") == version:
        whole = isinstance(content.get("settings"), dict) and content.keys() >= {*keys}
        return content if whole and seal in (None, _seal(content)) else None
    if upgrade and (upgraded := upgrade(content)) is not None:
        return upgraded
    if replace:
        return None
    raise OutdatedError(
        f"{folder} was prepared by another version of finishline: run the recipe's prepare "
        "command, which prepares it again"
    )


def write_manifest(
    folder: Path, dataset: str, version: int, settings: Mapping[str, Any], facts: Mapping[str, Any]
) -> Content:
    """Write a folder's manifest, which makes it readable, and return its content."""
    folder.mkdir(parents=True, exist_ok=True)
    content = plain({"dataset": dataset, "format": version, "settings": settings, **facts})
    write_json(folder / MANIFEST, {**content, _SEAL: _seal(content)})
    return content


def check_settings(folder: Path, actual: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise a ValueError that names each difference between a folder's settings and a run's."""
    different = [
        f"{name} {actual.get(name)}, this run needs {value}"
        for name, value in plain(wanted).items()
        if actual.get(name) != value
    ]
    if different:
        raise ValueError(
            f"{folder} was prepared with {'; '.join(different)}: give another directory with "
            "--data.prepared_dir, or delete this one"
        )


def read_records(folder: Path) -> dict[str, Content]:
    """Read the records of a folder, which may be unfinished or not exist, by unit name.

    A record has ``result``, ``files`` (sizes by name), ``fingerprint`` and ``raw``; those of 0.3
    and later also ``sha256`` (of the files, by name). The one named "" has data set, format and
    settings. Raises a ValueError if they exist and cannot be read.
    """
    try:
        lines = (folder / RECORDS).read_text(errors="replace").splitlines()
    except OSError as error:
        if error.errno in _ABSENT:
            return {}
        raise unreadable(folder / RECORDS, error) from error
    records: dict[str, Content] = {}
    for line in lines:
        with suppress(ValueError, TypeError, AttributeError):  # half a line of a killed run
            record = json.loads(line)
            if record.keys() >= (_RECORD_KEYS if record.get("unit") else _HEADER_KEYS):
                records[record["unit"]] = record
    return records


def write_records(folder: Path, records: Iterable[Content]) -> None:
    """Replace the records of a folder, the header first."""
    with atomic_file(folder / RECORDS) as file:
        file.writelines(json.dumps(record).encode() + b"\n" for record in records)


def changed_units(folder: Path, root: Path, only: Collection[str] | None = None) -> dict[str, str]:
    """Return a line for each unit whose raw files have changed; absent files are no change.

    Args:
        folder: The prepared folder.
        root: Folder of the raw files.
        only: Names of the units to look at; None looks at all.

    Returns:
        Unit name -> path and what has changed.

    Raises:
        ValueError: If a raw file exists and cannot be read.
    """
    lines = {}
    with stage("looking for changed files"):
        for unit, record in read_records(folder).items():
            if only is not None and unit not in only:
                continue
            # Text, not paths: ImageNet has a million files.
            raw = {os.path.join(root, entry[0]): RawFile(*entry) for entry in record.get("raw", ())}
            if changed := [path for path, file in raw.items() if _has_changed(path, file)]:
                more = f" and {len(changed) - 1} more files" if changed[1:] else ""
                what = "they were" if changed[1:] else "it was"
                lines[unit] = f"{changed[0]}{more} changed since {what} prepared"
    return lines


def refresh_times(folder: Path, root: Path) -> None:
    """Note the new times of raw files that were only touched, so that none is hashed again.

    To be called under the folder's lock, once ``changed_units`` has named the changed ones.
    """
    records, touched = read_records(folder), False
    for record in records.values():
        for entry in record.get("raw", ()):
            path, file = os.path.join(root, entry[0]), RawFile(*entry)
            with suppress(OSError):
                time = os.stat(path).st_mtime_ns
                if time != file.mtime_ns and not _has_changed(path, file):
                    entry[2], touched = time, True
    if touched:
        with suppress(OSError):  # a read-only folder
            write_records(folder, records.values())


def damaged_units(folder: Path) -> dict[str, str]:
    """Return a line for each finished unit with a file that is missing or has another size."""
    lines = {}
    for unit, record in read_records(folder).items():
        for name, expected in record.get("files", {}).items():
            if line := size_line(folder / name, expected):
                lines[unit] = line
    return lines


def size_line(path: Path, expected: int) -> str:
    """Return what is wrong with a prepared file by its size, or an empty text."""
    size = file_size(path)
    if size == expected:
        return ""
    return f"{path} {'is missing' if size is None else f'has {size} of {expected} bytes'}"


def file_size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def file_hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the first 32 hexadecimal digits of the SHA-256 of files of a folder, by name."""
    return {name: file_hash(folder / name) for name in names}


def file_hash(path: Path) -> str:
    """Return the first 32 hexadecimal digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:HASH_DIGITS]


def plain(value: Any) -> Any:
    """Return a value as JSON gives it back: lists for tuples."""
    return json.loads(json.dumps(value))


def _has_changed(path: str, file: RawFile) -> bool:
    """Another size is a change; another time alone is settled by the hash."""
    try:
        facts = os.stat(path)
        if facts.st_size != file.size or facts.st_mtime_ns == file.mtime_ns:
            return facts.st_size != file.size
        return file_hash(Path(path)) != file.sha256
    except OSError as error:
        if error.errno in _ABSENT:
            return False
        raise unreadable(path, error) from error


def _seal(content: Content) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:HASH_DIGITS]
