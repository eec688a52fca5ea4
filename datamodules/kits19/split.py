"""Which cases a folder has, and which of them are evaluated on."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from datamodules.common.reading import reading

NUM_LABELLED_CASES = 210
UNLABELLED = {f"{number:05d}" for number in range(NUM_LABELLED_CASES, 300)}
EVERY_FIFTH = 5  # as in the benchmark, where 42 of 210 are evaluated on
MOST_NAMED_CASES = 6


@dataclass(frozen=True)
class CaseSplit:
    """Ids of the training and evaluation cases, ascending; 5 digits each in KiTS19."""

    train: tuple[str, ...]
    evaluation: tuple[str, ...]

    @property
    def cases(self) -> tuple[str, ...]:
        return tuple(sorted(self.train + self.evaluation))


def data_lines(name: str) -> list[str]:
    """Return the lines of a list shipped in ``datamodules/kits19/data``, without comments."""
    text = (files("datamodules.kits19") / "data" / name).read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def kits19_split() -> CaseSplit:
    """Return the benchmark's split: 168 training and 42 evaluation cases, none of 210 and above.

    Source:
        mlcommons/training @ 9947bdf2, image_segmentation/pytorch/evaluation_cases.txt.
    """
    evaluation = tuple(data_lines("kits19_evaluation_cases.txt"))
    every = (f"{number:05d}" for number in range(NUM_LABELLED_CASES))
    return CaseSplit(tuple(case for case in every if case not in evaluation), evaluation)


def list_cases(folder: Path) -> tuple[str, ...]:
    """Return the ids of a folder's ``case_*`` directories; a broken link counts as one too.

    KiTS19's cases 210 to 299, which have no public labels, are left out unless they have one.
    Raises a ValueError if the folder cannot be read.
    """
    with reading(folder), os.scandir(folder) as entries:
        names = [
            entry.name
            for entry in entries
            if entry.name.startswith("case_") and (entry.is_dir() or entry.is_symlink())
        ]
    cases = sorted(name.removeprefix("case_") for name in names)
    return tuple(case for case in cases if case not in UNLABELLED or _has_label(folder, case))


def choose_split(
    folder: Path, names: Collection[str], benchmark: CaseSplit, evaluation_cases: Path | None
) -> CaseSplit:
    """Split the cases of a folder: the benchmark's are split as there, own ones as the user says.

    With all of the benchmark's cases, further ones from 210 on are left out as there. Without a
    list, every fifth own case is evaluated on. Raises a ValueError if one part would be empty.
    """
    cases = set(names)
    if cases - UNLABELLED == {*benchmark.cases}:
        cases = {*benchmark.cases}
        if evaluation_cases is None:
            return benchmark
    ordered = sorted(cases)
    held_out = ordered[::EVERY_FIFTH]
    if evaluation_cases is not None:
        held_out = _read_list(evaluation_cases)
        if lost := [case for case in held_out if case not in cases]:
            raise ValueError(
                f"data.evaluation_cases {evaluation_cases}: case_{lost[0]} is not in {folder}"
            )
    train = tuple(case for case in ordered if case not in held_out)
    if not train or not held_out:
        raise ValueError(
            f"{folder}: {len(train)} training and {len(held_out)} evaluation cases; needed is at "
            "least one of each (--data.evaluation_cases FILE chooses)"
        )
    return CaseSplit(train, tuple(sorted({*held_out})))


def differences(split: CaseSplit, benchmark: CaseSplit) -> list[str]:
    """Return one line per difference between the cases of two splits."""
    missing = sorted({*benchmark.cases} - {*split.cases})
    more = sorted({*split.cases} - {*benchmark.cases})
    if len(missing) == len(benchmark.cases):
        return [f"{len(split.cases)} cases of other names instead of its {len(missing)}"]
    if missing or more:
        parts = [(missing, "missing"), (more, "not among them")]
        details = [
            f"{some_cases(ids)} {'is' if len(ids) == 1 else 'are'} {w}" for ids, w in parts if ids
        ]
        total, expected = len(split.cases), len(benchmark.cases)
        return [f"{total} cases instead of its {expected}: {', '.join(details)}"]
    if split.evaluation != benchmark.evaluation:
        number, expected = len(split.evaluation), len(benchmark.evaluation)
        return [f"{number} evaluation cases of your own choice instead of its {expected}"]
    return []


def some_cases(cases: Sequence[str]) -> str:
    """Format cases as ``case_00003`` or ``37 cases (00003, 00004, ...)``."""
    if len(cases) == 1:
        return f"case_{cases[0]}"
    dots = ", ..." if len(cases) > MOST_NAMED_CASES else ""
    return f"{len(cases)} cases ({', '.join(cases[:MOST_NAMED_CASES])}{dots})"


def _has_label(folder: Path, case: str) -> bool:
    return (folder / f"case_{case}" / "segmentation.nii.gz").is_file()


def _read_list(path: Path) -> list[str]:
    try:
        lines = path.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ValueError(f"data.evaluation_cases {path}: {reason}") from error
    return [line.removeprefix("case_") for line in lines]
