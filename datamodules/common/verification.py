"""Prepared files against what was recorded when they were written: sizes and hashes.

Sizes are read at the start of ``fit``; the hashes need all bytes and are for ``prepare``. Files
that no unit wrote, such as an index, are recorded in the manifest's ``sha256`` (hashes by name).
"""

import json
import os
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.common.process_pool import outcomes
from datamodules.common.reading import reading
from datamodules.common.records import (
    MANIFEST,
    damaged_units,
    file_hash,
    file_size,
    read_records,
    size_line,
)

SERIAL_BYTES = 500_000_000  # below this many bytes a process's start costs more than the hashes
MOST_READERS = 8


def size_lines(folder: Path, sizes: Mapping[str, int]) -> dict[str, str]:
    """Return a line for each file that is missing or has another size; opens none.

    Args:
        folder: The prepared folder.
        sizes: Bytes of each file, by name.

    Returns:
        File name -> path and what is wrong.
    """
    lines = {name: size_line(folder / name, size) for name, size in sizes.items()}
    return {name: line for name, line in lines.items() if line}


def altered_units(
    folder: Path,
    only: Collection[str] | None = None,
    *,
    processes: int = 0,
    show_progress: bool = False,
) -> dict[str, str]:
    """Return a line for each unit with a file that is missing or has other bytes; reads them all.

    Args:
        folder: The prepared folder.
        only: Names of the units to look at; None looks at all.
        processes: Readers; 0 chooses by cores.
        show_progress: Draw a progress bar on standard error.

    Returns:
        Unit name -> path and what is wrong; a file that no unit wrote stands under its own name.

    Raises:
        ValueError: If a file exists and cannot be read.
    """
    lines = {unit: line for unit, line in damaged_units(folder).items() if _wanted(unit, only)}
    owners: dict[str, str] = {}
    expected: dict[str, str] = {}
    for unit, record in [*read_records(folder).items(), *_of_no_unit(folder).items()]:
        if _wanted(unit, only) and unit not in lines:
            expected |= record.get("sha256", {})
            owners |= dict.fromkeys(record.get("sha256", {}), unit)
    total = sum(file_size(folder / name) or 0 for name in expected)
    workers = processes or (1 if total < SERIAL_BYTES else min(MOST_READERS, os.cpu_count() or 1))
    job = partial(_hash_line, folder)
    items = list(expected.items())
    found = outcomes(
        job, items, min(workers, len(items) or 1), "checking", show_progress=show_progress
    )
    problems = []
    for outcome in found:
        if isinstance(outcome, str):
            problems.append(outcome)
        elif outcome[1]:
            lines.setdefault(owners[outcome[0]], outcome[1])
    if problems:
        raise ValueError("\n".join(sorted(problems)))
    return lines


def _of_no_unit(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        hashes = json.loads((folder / MANIFEST).read_text()).get("sha256", {})
        return {name: {"sha256": {name: digest}} for name, digest in hashes.items()}
    except (OSError, ValueError, AttributeError):
        return {}  # no manifest, or a damaged one, which is written anew


def _wanted(unit: str, only: Collection[str] | None) -> bool:
    return only is None or unit in only


def _hash_line(folder: Path, item: tuple[str, str]) -> tuple[str, str]:
    """Return a file's name, and a line if its bytes are not the recorded ones."""
    name, digest = item
    path = folder / name
    with reading(path):
        if not path.is_file():
            return name, f"{path} is missing"
        return name, "" if file_hash(path) == digest else f"{path} changed since it was written"
