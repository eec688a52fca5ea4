"""Manifest and records of a prepared folder: how it was made, and from which raw files."""

import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.common.atomic import write_json

MANIFEST, RECORDS = "manifest.json", "records.jsonl"
HASH_DIGITS = 32  # of 64: notices changes, and keeps the records of a million files small
Content = dict[str, Any]
Upgrade = Callable[[Content], Content | None]
_HEADER_KEYS = {"unit", "dataset", "format", "settings"}
_RECORD_KEYS = {"unit", "fingerprint", "files", "result", "raw"}


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
    digest = (sha256 or _sha256(path))[:HASH_DIGITS]
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
        ValueError: If it belongs to another data set.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
        return None
    if not isinstance(content, dict) or not (upgrade or "format" in content):
        return None
    if (owner := content.get("dataset", dataset)) != dataset:
        raise ValueError(
            f"{path} belongs to {owner}: give another directory with --data.prepared_dir"
        )
    if content.get("dataset") and content.get("format") == version:
        whole = isinstance(content.get("settings"), dict) and content.keys() >= {*keys}
        return content if whole else None
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
    content = {"dataset": dataset, "format": version, "settings": settings, **facts}
    write_json(folder / MANIFEST, content)
    return plain(content)


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

    A record has ``result``, ``files`` (sizes by name), ``fingerprint`` and ``raw``. The one named
    "" has data set, format and settings.
    """
    try:
        lines = (folder / RECORDS).read_text(errors="replace").splitlines()
    except OSError:
        return {}
    records: dict[str, Content] = {}
    for line in lines:
        with suppress(ValueError, TypeError, AttributeError):  # half a line of a killed run
            record = json.loads(line)
            if record.keys() >= (_RECORD_KEYS if record.get("unit") else _HEADER_KEYS):
                records[record["unit"]] = record
    return records


def changed_units(folder: Path, root: Path) -> dict[str, str]:
    """Return a line for each unit whose raw files have changed; absent files are no change."""
    lines = {}
    for unit, record in read_records(folder).items():
        # Text, not paths: ImageNet has a million files.
        raw = {os.path.join(root, entry[0]): RawFile(*entry) for entry in record.get("raw", ())}
        if changed := [path for path, file in raw.items() if _has_changed(path, file)]:
            more = f" and {len(changed) - 1} more files have" if changed[1:] else " has"
            lines[unit] = f"{changed[0]}{more} changed since {unit} was prepared"
    return lines


def damaged_units(folder: Path) -> dict[str, str]:
    """Return a line for each finished unit with a file that is missing or has another size."""
    lines = {}
    for unit, record in read_records(folder).items():
        for name, expected in record.get("files", {}).items():
            size = file_size(folder / name)
            if size != expected:
                what = "is missing" if size is None else f"has {size} of {expected} bytes"
                lines[unit] = f"{folder / name} {what}"
    return lines


def file_size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def plain(value: Any) -> Any:
    """Return a value as JSON gives it back: lists for tuples."""
    return json.loads(json.dumps(value))


def _has_changed(path: str, file: RawFile) -> bool:
    """Another size is a change; another time alone is settled by the hash."""
    try:
        facts = os.stat(path)
    except OSError:
        return False
    if facts.st_size != file.size or facts.st_mtime_ns == file.mtime_ns:
        return facts.st_size != file.size
    return _sha256(Path(path))[:HASH_DIGITS] != file.sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
