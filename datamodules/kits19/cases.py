"""Prepared KiTS19 cases: their file names, records and manifest. Imports no resampling code."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

from datamodules.common.cache import cache_dir
from datamodules.common.records import Content, check_settings, read_manifest

DATASET, FORMAT = "kits19", 2


@dataclass(frozen=True)
class PreparedCase:
    """One preprocessed case as the manifest records it."""

    case: str  # 5-digit id
    shape: tuple[int, int, int]  # in voxels (D, H, W)
    md5_x: str  # of the image's file
    md5_y: str  # of the label's file


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


def settings(minimum: Sequence[int]) -> Content:
    """Return what prepared files depend on besides the raw ones: the least size of each axis."""
    return {"minimum_shape": list(minimum)}


def facts(cases: Mapping[str, PreparedCase]) -> Content:
    """Return what the manifest says of the cases."""
    ordered = [cases[case] for case in sorted(cases)]
    return {
        "num_cases": len(ordered),
        "num_voxels": sum(prod(case.shape) for case in ordered),
        "cases": [asdict(case) for case in ordered],
    }


def case_of(record: Mapping[str, Any]) -> PreparedCase:
    """Make a case of its record in JSON."""
    return PreparedCase(**{**record, "shape": tuple(record["shape"])})


def read_cases(folder: Path, minimum: Sequence[int], *, replace: bool = False) -> Cases:
    """Read a prepared folder's cases whose two files exist; opens no volume.

    Raises a ValueError if the folder was prepared with another minimum size, or by another version
    and is not to be replaced.
    """
    cases: Cases = {}
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
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
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
