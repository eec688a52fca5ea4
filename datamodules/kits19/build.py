"""Preparing a whole KiTS19 folder, or checking one that was preprocessed elsewhere."""

import os
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

from datamodules.common.preparation import Done, Preparation, Unit, preparing, space_problem
from datamodules.common.process_pool import outcomes
from datamodules.common.records import MANIFEST, read_records, write_manifest
from datamodules.kits19.cases import (
    DATASET,
    FORMAT,
    Cases,
    PreparedCase,
    beyond_a_gap,
    case_of,
    checked_folder,
    count_classes,
    facts,
    file_names,
    from_format_1,
    image_path,
    label_path,
    leaks,
    read_cases,
    settings,
)
from datamodules.kits19.checksums import is_other_data, label_errors
from datamodules.kits19.prepare import inspect_case, prepare_case, prepared_bytes
from datamodules.kits19.raw import RawCase, scan_cases
from datamodules.kits19.split import CaseSplit

# Below this much output a process's start (it imports torch to resample) costs more than the work.
SERIAL_BYTES = 200_000_000
# The largest case (about 1000 slices of 512 x 512, then 78 M voxels) peaks near 6 GB.
WORKER_BYTES = 6_000_000_000


def build(
    raw_folder: Path,
    out: Path,
    split: CaseSplit,
    minimum: Sequence[int],
    *,
    checksums: Mapping[str, str],
    processes: int = 0,
    redo: Collection[str] = (),
    show_progress: bool = False,
) -> Cases:
    """Preprocess the cases of a raw folder that are not done yet; return all cases of the split.

    Raises a ValueError with one line per problem: bad raw files, no space, labels that differ from
    the reference's or leave a class out. Good cases are prepared and kept, bad ones removed.
    ``checksums`` gives the expected MD5 by file name; it is empty for own and generated data.
    """
    raws, problems = scan_cases(raw_folder, split.cases, trusted=bool(checksums))
    if problems and not raws:
        raise ValueError("\n".join(problems))
    with preparing(
        out,
        DATASET,
        settings(minimum),
        version=FORMAT,
        root=raw_folder,
        redo=redo,
        upgrade=from_format_1,
        show_progress=show_progress,
    ) as preparation:
        units = [_unit(raw, minimum) for raw in raws]
        _take_over(preparation, units, out, minimum)
        job = partial(prepare_case, out=out, minimum=tuple(minimum), checksums=checksums)
        try:
            results = preparation.run(
                "preprocessing",
                job,
                units,
                processes=processes,
                worker_bytes=WORKER_BYTES,
                serial_bytes=SERIAL_BYTES,
            )
        except ValueError as error:
            problems += str(error).splitlines()
        if problems:
            raise ValueError("\n".join(problems))
        cases = {case: case_of(record) for case, record in results.items()}
        errors = label_errors(out, cases, checksums)
        bad = [*errors] if not is_other_data(cases, errors) else []
        for case in (*bad, *beyond_a_gap(cases)):  # so that the next run does it again
            image_path(out, case).unlink(missing_ok=True)
            label_path(out, case).unlink(missing_ok=True)
        if bad:
            raise ValueError("\n".join(errors.values()))
        count_classes(cases)
        if lines := leaks(cases, split.evaluation):
            raise ValueError("\n".join(lines))
        preparation.finish(facts(out, cases))
        (out / "progress.jsonl").unlink(missing_ok=True)  # of a killed run of version 0.1
    return cases


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

    Raises a ValueError with one line per problem. Files that differ from an earlier manifest are
    one: nothing here could make them again.
    """
    earlier = read_cases(folder, minimum, replace=True)
    size = sum(path.stat().st_size for path in folder.glob("case_*.npy"))
    workers = processes or (1 if size < SERIAL_BYTES else os.cpu_count() or 1)
    job = partial(inspect_case, folder, minimum=tuple(minimum))
    results = list(outcomes(job, split.cases, workers, "checking", show_progress=show_progress))
    cases = {item.case: item for item in results if isinstance(item, PreparedCase)}
    problems = [item for item in results if isinstance(item, str)]
    problems += [
        f"{image_path(folder, case)}: this case changed since it was checked; copy it again, or "
        f"delete {MANIFEST} to accept it"
        for case, old in earlier.items()
        if case in cases and (old.md5_x, old.md5_y) != (cases[case].md5_x, cases[case].md5_y)
    ]
    errors = label_errors(folder, cases, checksums)
    if not is_other_data(cases, errors):
        problems += errors.values()
    if problems := problems or leaks(cases, split.evaluation):
        raise ValueError("\n".join(sorted(problems)))
    count_classes(cases)
    content = (DATASET, FORMAT, settings(minimum), facts(folder, cases))
    try:
        write_manifest(folder, *content)
    except OSError:  # a read-only share: remember the verdict on this machine
        write_manifest(checked_folder(folder), *content)
    return cases


def missing_files(folder: Path, cases: Sequence[str]) -> list[str]:
    """List the files that a folder preprocessed elsewhere lacks, naming at most five."""
    lost = [path for case in cases for path in _paths(folder, case) if not path.is_file()]
    lines = [
        f"{path}: missing; copy it again, or give the raw data's directory" for path in lost[:5]
    ]
    more = len(lost) - len(lines)
    return [*lines, f"{folder}: {more} more files are missing"] if more else lines


def raw_problems(
    raw_folder: Path, out: Path, cases: Sequence[str], minimum: Sequence[int], *, trusted: bool
) -> list[str]:
    """Check the raw files of cases that are not preprocessed yet, and the disk space they take."""
    raws, lines = scan_cases(raw_folder, cases, trusted=trusted)
    finished = read_records(out)
    todo = [raw for raw in raws if raw.case not in finished]
    problem = space_problem(out, sum(prepared_bytes(raw, minimum) for raw in todo))
    return [*lines, problem] if problem else lines


def _unit(raw: RawCase, minimum: Sequence[int]) -> Unit:
    files = file_names(raw.case)
    return Unit(raw.case, raw, files, num_bytes=prepared_bytes(raw, minimum))


def _paths(folder: Path, case: str) -> list[Path]:
    return [folder / name for name in file_names(case)]


def _take_over(
    preparation: Preparation, units: Sequence[Unit], out: Path, minimum: Sequence[int]
) -> None:
    """Record the cases of version 0.1, which wrote none."""
    if preparation.is_new:
        cases = read_cases(out, minimum, replace=True)
        for unit in units:
            if unit.name in cases:
                preparation.remember(unit, Done(vars(cases[unit.name])))
