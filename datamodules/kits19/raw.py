"""The raw KiTS19 folder, or own data in its layout: find it, check it, read one case.

Layout: ``case_XXXXX/imaging.nii.gz`` and ``case_XXXXX/segmentation.nii.gz``, axes (slices, height,
width), voxel spacing in the header in the same order. Labels are the whole numbers 0 to K - 1.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from datamodules.common.reading import reading
from datamodules.kits19.nifti import Header, geometry_problem, read_header, read_voxels
from datamodules.kits19.split import list_cases, some_cases

IMAGE, LABEL = "imaging.nii.gz", "segmentation.nii.gz"
MOST_LABEL = 254  # labels are kept in a byte

OBTAIN = (
    "KiTS19 (about 30 GB, CC BY-NC-SA 4.0): git clone https://github.com/neheller/kits19, "
    "then in it: python -m starter_code.get_imaging"
)


@dataclass(frozen=True)
class RawCase:
    """One raw case as its headers describe it."""

    case: str  # 5-digit id in KiTS19
    folder: Path
    shape: tuple[int, int, int]  # in voxels (slices, height, width)
    spacing: tuple[float, float, float]  # in mm, same order
    axis_order: str = ""  # such as "zyx"; empty if the header does not state it
    geometry: str = ""  # a line if the label's header does not fit the image's


def find_data(root: Path) -> Path:
    """Return the folder with the cases, raw or preprocessed: the root, or ``data`` in a clone.

    Raises a FileNotFoundError that says whether the root is one level too high or too low, and a
    ValueError if it cannot be read.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"data root {root} is not a directory. {OBTAIN}")
    for folder in (root, root / "data"):
        if folder.is_dir() and _has_cases(folder):
            return folder
    if (root / IMAGE).is_file() or (root / LABEL).is_file():
        raise FileNotFoundError(
            f"data root {root} is a single case directory; pass its parent, {root.parent}"
        )
    for below in sorted(path for path in root.iterdir() if path.is_dir()):
        if next(below.glob("case_*"), None) or next(below.glob("data/case_*"), None):
            raise FileNotFoundError(f"data root {root} is one level too high: pass {below}")
    raise FileNotFoundError(f"data root {root} contains no case_XXXXX directory. {OBTAIN}")


def is_preprocessed(folder: Path) -> bool:
    """Return whether a folder holds preprocessed files rather than raw cases."""
    return next(folder.glob("case_*_x.npy"), None) is not None


def scan_cases(
    folder: Path, cases: Sequence[str], *, trusted: bool = False
) -> tuple[list[RawCase], list[str]]:
    """Check all cases by their headers and file ends, without unpacking them.

    Returns the good ones, and one line per problem: what, where, what to do. ``trusted`` leaves a
    label's doubtful geometry to the checksums, which are of the published voxels.
    """
    good: list[RawCase] = []
    problems: list[str] = []
    missing: dict[str, list[str]] = {IMAGE: [], LABEL: []}
    for case in cases:
        where = folder / f"case_{case}"
        try:
            with reading(where):
                lost = [name for name in missing if not (where / name).is_file()]
            for name in lost:
                missing[name].append(case)
            if not lost:
                good.append(scan_case(where))
        except ValueError as error:
            problems.append(str(error))
    good = _with_odd_axes_named(good)
    if not trusted:
        problems += [raw.geometry for raw in good if raw.geometry]
        good = [raw for raw in good if not raw.geometry]
    hints = {IMAGE: "python -m starter_code.get_imaging", LABEL: "git checkout -- data"}
    lines = [
        f"{folder}: {name} is missing in {some_cases(ids)}; in the kits19 clone run: {hints[name]}"
        for name, ids in missing.items()
        if ids
    ]
    return good, lines + problems


def scan_case(folder: Path) -> RawCase:
    """Check one case by its two headers; raise a ValueError of one line if it is bad."""
    for name in (IMAGE, LABEL):
        if (plain := folder / name.removesuffix(".gz")).is_file():
            raise ValueError(f"{plain}: lies next to {name}; remove the one that is out of date")
    image, label = read_header(folder / IMAGE), read_header(folder / LABEL)
    if image.shape != label.shape:
        raise ValueError(
            f"{folder / LABEL}: has shape {label.shape}, but {IMAGE} has {image.shape}; "
            "fetch this case again"
        )
    case = folder.name.removeprefix("case_")
    geometry = _geometry_line(folder, image, label)
    return RawCase(case, folder, image.shape, image.spacing, image.axis_order, geometry)


def read_case(raw: RawCase) -> tuple[np.ndarray, np.ndarray]:
    """Return a case's image_1DHW, float32 in Hounsfield units, and label_1DHW, uint8 classes."""
    with np.errstate(over="ignore"):  # what does not fit becomes infinite and is named
        image_DHW = read_voxels(raw.folder / IMAGE).astype(np.float32)
    if bad := image_DHW.size - int(np.isfinite(image_DHW).sum()):
        raise ValueError(
            f"{raw.folder / IMAGE}: {bad} of {image_DHW.size} voxels are not finite; replace them "
            "or fetch this case again"
        )
    label_DHW = read_voxels(raw.folder / LABEL)
    ids = np.unique(label_DHW)
    if strange := [value for value in ids.tolist() if not _is_label(value)]:
        raise ValueError(
            f"{raw.folder / LABEL}: has label {strange[0]:g}, allowed are whole numbers from 0 "
            f"(background) to {MOST_LABEL}; correct it or fetch this case again"
        )
    return image_DHW[None], label_DHW.astype(np.uint8)[None]


def _is_label(value: float) -> bool:
    return float(value).is_integer() and 0 <= value <= MOST_LABEL


def _has_cases(folder: Path) -> bool:
    if list_cases(folder):
        return True
    with suppress(OSError):
        return is_preprocessed(folder)
    return False


def _geometry_line(folder: Path, image: Header, label: Header) -> str:
    if problem := geometry_problem(image, label):
        return (
            f"{folder / LABEL}: {problem}; resample the label to its image, or correct its header"
        )
    return ""


def _with_odd_axes_named(cases: Sequence[RawCase]) -> list[RawCase]:
    """Name the cases whose axes are in another order than most cases'."""
    orders = Counter(raw.axis_order for raw in cases if raw.axis_order)
    if len(orders) < 2:
        return list(cases)
    usual = orders.most_common(1)[0][0]
    return [
        replace(
            raw,
            geometry=f"{raw.folder / IMAGE}: its axes are {raw.axis_order}, those of most cases "
            f"{usual}; store all volumes in one order",
        )
        if raw.axis_order not in ("", usual)
        else raw
        for raw in cases
    ]
