"""Preprocessing a whole KiTS19 folder: in parallel, restartable, with one line per problem.

Each finished case is noted in ``progress.jsonl``; ``manifest.json`` replaces it when all are done.
A killed run therefore goes on where it was, and a complete folder is recognised by one small file.
"""

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from datamodules.common.cache import cache_dir
from datamodules.common.process_pool import outcomes, processes_for
from datamodules.kits19.checksums import label_errors
from datamodules.kits19.prepare import (
    PreparedCase,
    image_path,
    inspect_case,
    label_path,
    prepare_case,
    prepared_bytes,
)
from datamodules.kits19.raw import CaseSplit, scan_cases

FORMAT = 1
MANIFEST, PROGRESS = "manifest.json", "progress.jsonl"
# Below this much output a process's start (it imports torch) costs more than the work.
SERIAL_BYTES = 200_000_000
# The largest case (about 1000 slices of 512 x 512, then 78 M voxels) peaks near 6 GB.
WORKER_BYTES = 6_000_000_000
Cases = dict[str, PreparedCase]


def finished_cases(folder: Path, minimum: Sequence[int]) -> Cases:
    """The cases of a prepared folder that are complete; opens no sample file.

    Args:
        folder: Prepared folder; may not exist yet.
        minimum: Least size of each axis that this run needs.

    Returns:
        Records by case id, of cases whose two files exist.

    Raises:
        ValueError: If the folder was prepared with another minimum size.
    """
    records: Cases = {}
    notes = (folder / MANIFEST, _far_manifest(folder), folder / PROGRESS)
    for note in (path for path in notes if path.is_file()):
        for line in note.read_text().splitlines():
            entry = _entry(line)
            if entry is None or entry.get("format") != FORMAT:
                continue
            if entry["minimum_shape"] != list(minimum):
                raise ValueError(
                    f"{folder} was prepared with a minimum shape of {entry['minimum_shape']}, this "
                    f"run needs {list(minimum)}: give another folder with --data.prepared_dir"
                )
            for case in entry["cases"]:
                records[case["case"]] = PreparedCase(**{**case, "shape": tuple(case["shape"])})
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return {
        case: record
        for case, record in records.items()
        if {image_path(folder, case).name, label_path(folder, case).name} <= present
    }


def _entry(line: str) -> dict[str, Any] | None:
    """One line of a note; ``None`` for half a line, which a killed run or a full disk leaves."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def build(
    raw_folder: Path,
    out: Path,
    split: CaseSplit,
    minimum: Sequence[int],
    *,
    checksums: Mapping[str, str],
    processes: int = 0,
    show_progress: bool = False,
) -> Cases:
    """Preprocess what is not yet done of a raw folder.

    Args:
        raw_folder: Folder with the raw ``case_XXXXX`` folders.
        out: Prepared folder, created if need be.
        split: The cases wanted.
        minimum: Least size of each axis.
        checksums: Expected MD5 by file name; empty for generated data.
        processes: Worker processes; 0 chooses by cores and memory.
        show_progress: Draw a progress bar.

    Returns:
        All cases of the split.

    Raises:
        ValueError: One line per problem: bad raw files, no space, a folder that cannot be written,
            labels that differ from the reference's. Complete cases are kept, others removed.
    """
    raws, problems = scan_cases(raw_folder, split.cases)
    if problems:
        raise ValueError("\n".join(problems))
    with _writable(out):
        done = finished_cases(out, minimum)
        todo = [raw for raw in raws if raw.case not in done]
        need = {raw.case: prepared_bytes(raw, minimum) for raw in todo}
        if line := space_problem(out, sum(need.values())):
            raise ValueError(line)
        todo.sort(key=lambda raw: -need[raw.case])  # large ones first, so that workers end together
        job = partial(prepare_case, out=out, minimum=tuple(minimum))
        few = sum(need.values()) < SERIAL_BYTES
        workers = processes or (1 if few else processes_for(len(todo), WORKER_BYTES))
        results = outcomes(job, todo, workers, "preprocessing", show_progress=show_progress)
        for outcome in results:
            if isinstance(outcome, str):
                problems.append(outcome)
                continue
            done[outcome.case] = outcome
            with (out / PROGRESS).open("a") as file:
                # A line of its own, even behind half a line of a run that was cut.
                file.write("\n" + _note([outcome], minimum))
        problems += _drop_wrong_labels(out, done, checksums)
        if problems:
            raise ValueError("\n".join(sorted(problems)))
        _write_manifest(out / MANIFEST, done, minimum)
        (out / PROGRESS).unlink(missing_ok=True)
    return done


def adopt(
    folder: Path,
    split: CaseSplit,
    minimum: Sequence[int],
    *,
    checksums: Mapping[str, str],
    processes: int = 0,
    show_progress: bool = False,
) -> Cases:
    """Check a folder that was preprocessed elsewhere; only the manifest is added to it.

    Args:
        folder: Folder with ``case_XXXXX_x.npy`` and ``_y.npy`` files.
        split: The cases wanted.
        minimum: Least size of each axis.
        checksums: Expected MD5 by file name.
        processes: Worker processes; 0 chooses by cores.
        show_progress: Draw a progress bar.

    Returns:
        All cases of the split.

    Raises:
        ValueError: One line per problem.
    """
    size = sum(path.stat().st_size for path in folder.glob("case_*.npy"))
    workers = processes or (1 if size < SERIAL_BYTES else os.cpu_count() or 1)
    job = partial(inspect_case, folder, minimum=tuple(minimum))
    results = list(outcomes(job, split.cases, workers, "checking", show_progress=show_progress))
    done = {item.case: item for item in results if isinstance(item, PreparedCase)}
    problems = [item for item in results if isinstance(item, str)]
    problems += label_errors(folder, done, checksums).values()
    if problems:
        raise ValueError("\n".join(sorted(problems)))
    try:
        _write_manifest(folder / MANIFEST, done, minimum)
    except OSError:  # a read-only share: remember the verdict on this machine
        _write_manifest(_far_manifest(folder), done, minimum)
    return done


def missing_files(folder: Path, cases: Sequence[str]) -> list[str]:
    """Cases that a folder preprocessed elsewhere lacks.

    Args:
        folder: Folder with ``case_XXXXX_x.npy`` and ``_y.npy`` files.
        cases: Cases wanted.

    Returns:
        One line per missing file, at most five of them.
    """
    paths = [path(folder, case) for case in cases for path in (image_path, label_path)]
    lost = [path for path in paths if not path.is_file()]
    lines = [f"{path}: missing; copy it again, or give the raw data's folder" for path in lost[:5]]
    return (
        lines if len(lost) <= 5 else [*lines, f"{folder}: {len(lost) - 5} more files are missing"]
    )


def space_problem(out: Path, needed: int) -> str | None:
    """Whether the disk has room.

    Args:
        out: Folder to write; it or a parent exists.
        needed: Bytes to be written.

    Returns:
        One line, or None if there is room.
    """
    place = next(path for path in (out, *out.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    if needed < free:
        return None
    return (
        f"{out}: preprocessing needs {needed / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB free; "
        "make room or give another folder with --data.prepared_dir"
    )


@contextmanager
def _writable(out: Path) -> Iterator[None]:
    """Hold the prepared folder for this process alone; say in one line if it cannot be written."""
    from filelock import FileLock

    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / ".lock"):
            for partial_file in out.glob(".case_*.partial"):  # of a killed run: we hold the lock
                partial_file.unlink()
            yield
    except OSError as error:
        raise ValueError(
            f"{out}: cannot be written ({error.strerror or error}); finished cases are kept; make "
            "room or give another folder with --data.prepared_dir"
        ) from error


def _drop_wrong_labels(out: Path, done: Cases, checksums: Mapping[str, str]) -> list[str]:
    """Take back the cases whose labels are wrong, so that the next run redoes them."""
    errors = label_errors(out, done, checksums)
    for case in errors:
        image_path(out, case).unlink(missing_ok=True)
        label_path(out, case).unlink(missing_ok=True)
    return list(errors.values())


def _note(cases: Sequence[PreparedCase], minimum: Sequence[int], **extra: object) -> str:
    """One line of the manifest or the progress file."""
    entry = {"format": FORMAT, "minimum_shape": list(minimum), **extra}
    return json.dumps({**entry, "cases": [case.as_json() for case in cases]}) + "\n"


def _write_manifest(path: Path, done: Cases, minimum: Sequence[int]) -> None:
    """Write the manifest whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = sum(math.prod(case.shape) for case in done.values())
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    ordered = [done[case] for case in sorted(done)]
    fresh.write_text(_note(ordered, minimum, num_cases=len(done), num_voxels=voxels))
    fresh.replace(path)


def _far_manifest(folder: Path) -> Path:
    """Where the manifest of a read-only folder is kept."""
    digest = sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return cache_dir() / "kits19-checked" / digest / MANIFEST
