"""Prepared KiTS19 cases: their file names, records and manifest. Imports no resampling code."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

from datamodules.common.cache import cache_dir
from datamodules.common.records import Content, check_settings, file_size, read_manifest
from datamodules.common.verification import size_lines
from datamodules.kits19.split import some_cases

DATASET, FORMAT = "kits19", 2


@dataclass(frozen=True)
class PreparedCase:
    """One preprocessed case as the manifest records it."""

    case: str  # 5-digit id in KiTS19
    shape: tuple[int, int, int]  # in voxels (D, H, W)
    md5_x: str  # of the image's file
    md5_y: str  # of the label's file
    labels: tuple[int, ...] = (0, 1, 2)  # ascending; version 0.2 allowed these only


Cases = dict[str, PreparedCase]


def image_path(folder: Path, case: str) -> Path:
    """Return the path of a case's preprocessed image, named as the reference names it."""
    return folder / f"case_{case}_x.npy"


def label_path(folder: Path, case: str) -> Path:
    """Return the path of a case's preprocessed label, named as the reference names it."""
    return folder / f"case_{case}_y.npy"


def file_names(case: str) -> tuple[str, str]:
    """Return the names of a case's two files."""
    return image_path(Path(), case).name, label_path(Path(), case).name


def prepared_cases(folder: Path) -> tuple[str, ...]:
    """Return the ids of the cases of which a folder has a preprocessed image or label."""
    names = {path.stem[:-2] for path in folder.glob("case_*_[xy].npy")}
    return tuple(sorted(name.removeprefix("case_") for name in names))


def settings(minimum: Sequence[int]) -> Content:
    """Return what prepared files depend on besides the raw ones: the least size of each axis."""
    return {"minimum_shape": list(minimum)}


def facts(folder: Path, cases: Mapping[str, PreparedCase]) -> Content:
    """Return what the manifest says of the cases, and the sizes of their files."""
    ordered = [cases[case] for case in sorted(cases)]
    return {
        "num_cases": len(ordered),
        "num_voxels": sum(prod(case.shape) for case in ordered),
        "cases": [asdict(case) for case in ordered],
        "files": {
            name: file_size(folder / name) for case in ordered for name in file_names(case.case)
        },
    }


def count_classes(cases: Mapping[str, PreparedCase]) -> int:
    """Return the number of classes, background included.

    Raises a ValueError unless the cases have the labels 0 to K - 1, each in at least one of them.
    """
    number = max(label for case in cases.values() for label in case.labels) + 1
    if odd := beyond_a_gap(cases):
        raise ValueError(
            f"{some_cases(odd)}: labels up to {number - 1}, though the classes are to be numbered "
            "from 0 (background) without gaps; correct them"
        )
    if number < 2:
        raise ValueError("no case has a label other than 0 (background); there is nothing to learn")
    return number


def beyond_a_gap(cases: Mapping[str, PreparedCase]) -> list[str]:
    """Return the cases with a label that is larger than one that no case has."""
    labels = {0, *(label for case in cases.values() for label in case.labels)}
    reached = next(label for label in range(len(labels) + 1) if label not in labels)
    return sorted(case for case, each in cases.items() if max(each.labels) > reached)


def leaks(cases: Mapping[str, PreparedCase], evaluation: Sequence[str]) -> list[str]:
    """Return a line for each evaluation case whose image is a training case's too."""
    trained = {each.md5_x: case for case, each in cases.items() if case not in evaluation}
    return [
        f"case_{case} has the image of case_{trained[cases[case].md5_x]}, which is trained on; "
        "remove one of them"
        for case in evaluation
        if cases[case].md5_x in trained
    ]


def case_of(record: Mapping[str, Any]) -> PreparedCase:
    """Make a case of its record in JSON."""
    labels = {"labels": tuple(record["labels"])} if "labels" in record else {}
    return PreparedCase(**{**record, "shape": tuple(record["shape"]), **labels})


def read_cases(folder: Path, minimum: Sequence[int], *, replace: bool = False) -> Cases:
    """Read a prepared folder's cases whose two files exist in their size; opens no volume.

    Raises a ValueError if the folder was prepared with another minimum size, or by another version
    and is not to be replaced.
    """
    cases: Cases = {}
    sizes: dict[str, int] = {}
    for manifest_folder in (folder, checked_folder(folder)):
        content = read_manifest(
            manifest_folder,
            DATASET,
            version=FORMAT,
            upgrade=from_format_1,
            replace=replace,
            keys=("cases",),
        )
        if content is not None:
            check_settings(folder, content["settings"], settings(minimum))
            cases |= {record["case"]: case_of(record) for record in content["cases"]}
            sizes |= content.get("files", {})  # none of version 0.2 and earlier
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    present -= size_lines(folder, {name: sizes[name] for name in present & sizes.keys()}).keys()
    return {case: each for case, each in cases.items() if present.issuperset(file_names(case))}


def checked_folder(folder: Path) -> Path:
    """Return where the manifest of a read-only folder is kept on this machine."""
    digest = sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return cache_dir() / "kits19-checked" / digest


def from_format_1(content: Content) -> Content | None:
    """Read the manifest of finishline 0.1, whose volumes are the same."""
    if content.get("format") != 1 or not {"minimum_shape", "cases"} <= content.keys():
        return None
    return {"settings": {"minimum_shape": content["minimum_shape"]}, "cases": content["cases"]}
