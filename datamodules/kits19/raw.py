"""The raw KiTS19 folder: find it, check it without unpacking it, read one case.

Layout: ``case_XXXXX/imaging.nii.gz`` and ``case_XXXXX/segmentation.nii.gz``, axes (slices, height,
width), voxel spacing in the header in the same order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

NUM_LABELLED_CASES = 210  # cases 210 to 299 have no public labels
IMAGE, LABEL = "imaging.nii.gz", "segmentation.nii.gz"
MOST_NAMED_CASES = 6

OBTAIN = (
    "KiTS19 (about 30 GB, CC BY-NC-SA 4.0): git clone https://github.com/neheller/kits19, "
    "then in it: python -m starter_code.get_imaging"
)


@dataclass(frozen=True)
class CaseSplit:
    """Ids (5 digits, ascending) of the training and evaluation cases."""

    train: tuple[str, ...]
    evaluation: tuple[str, ...]

    @property
    def cases(self) -> tuple[str, ...]:
        return tuple(sorted(self.train + self.evaluation))


@dataclass(frozen=True)
class RawCase:
    """One raw case as its headers describe it."""

    case: str  # 5-digit id
    folder: Path
    shape: tuple[int, int, int]  # in voxels (slices, height, width)
    spacing: tuple[float, float, float]  # in mm, same order


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


def find_data(root: Path) -> Path:
    """Return the folder with the cases, raw or preprocessed: the root, or ``data`` in a clone.

    Raises a FileNotFoundError that says whether the root is one level too high or too low.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"data root {root} is not a directory. {OBTAIN}")
    for folder in (root, root / "data"):
        if next(folder.glob("case_[0-9]*"), None):
            return folder
    if (root / IMAGE).is_file() or (root / LABEL).is_file():
        raise FileNotFoundError(
            f"data root {root} is a single case directory; pass its parent, {root.parent}"
        )
    for below in sorted(path for path in root.iterdir() if path.is_dir()):
        if next(below.glob("case_[0-9]*"), None) or next(below.glob("data/case_[0-9]*"), None):
            raise FileNotFoundError(f"data root {root} is one level too high: pass {below}")
    raise FileNotFoundError(f"data root {root} contains no case_XXXXX directory. {OBTAIN}")


def scan_cases(folder: Path, cases: Sequence[str]) -> tuple[list[RawCase], list[str]]:
    """Check all cases by their headers and file ends, without unpacking them.

    Returns the good ones, and one line per problem: what, where, what to do.
    """
    good: list[RawCase] = []
    problems: list[str] = []
    missing: dict[str, list[str]] = {IMAGE: [], LABEL: []}
    for case in cases:
        lost = [name for name in missing if not (folder / f"case_{case}" / name).is_file()]
        for name in lost:
            missing[name].append(case)
        if lost:
            continue
        try:
            good.append(scan_case(folder / f"case_{case}"))
        except ValueError as error:
            problems.append(str(error))
    hints = {IMAGE: "python -m starter_code.get_imaging", LABEL: "git checkout -- data"}
    lines = [
        f"{folder}: {name} is missing in {_some(ids)}; in the kits19 clone run: {hints[name]}"
        for name, ids in missing.items()
        if ids
    ]
    return good, lines + problems


def scan_case(folder: Path) -> RawCase:
    """Check one case by its two headers; raise a ValueError of one line if it is bad."""
    image_shape, spacing = _header(folder / IMAGE)
    label_shape, _ = _header(folder / LABEL)
    if image_shape != label_shape:
        raise ValueError(
            f"{folder / LABEL}: has shape {label_shape}, but {IMAGE} has {image_shape}; "
            "fetch this case again"
        )
    return RawCase(folder.name.removeprefix("case_"), folder, image_shape, spacing)


def read_case(raw: RawCase) -> tuple[np.ndarray, np.ndarray]:
    """Return a case's image_1DHW, float32 in Hounsfield units, and label_1DHW, uint8 in 0..2."""
    image_DHW = _voxels(raw.folder / IMAGE).astype(np.float32)
    label_DHW = _voxels(raw.folder / LABEL)
    ids = np.unique(label_DHW)
    if strange := [value for value in ids.tolist() if value not in (0, 1, 2)]:
        raise ValueError(
            f"{raw.folder / LABEL}: has label {strange[0]:g}, allowed are 0 (background), "
            "1 (kidney) and 2 (tumour); fetch this case again"
        )
    return image_DHW[None], label_DHW.astype(np.uint8)[None]


def _header(path: Path) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Read shape and spacing, after checking that the file is complete."""
    import nibabel

    try:
        volume: Any = nibabel.load(path)
        shape = tuple(int(size) for size in volume.shape)
        spacing = volume.header["pixdim"][1:4].tolist()
        expected = int(volume.dataobj.offset) + volume.dataobj.dtype.itemsize * int(np.prod(shape))
        whole = _unpacked_size(path) == expected % 2**32
    except Exception as error:  # nibabel and zlib raise many kinds for a broken file
        raise ValueError(_unreadable(path, error)) from None
    if len(shape) != 3:
        raise ValueError(f"{path}: has shape {shape}, expected three axes; fetch this case again")
    if not whole:
        _voxels(path)  # several gzip members also look like this: only reading it all can tell
    return shape, (spacing[0], spacing[1], spacing[2])


def _unpacked_size(path: Path) -> int:
    """Return the size modulo 2^32 that a gzip file states in its last four bytes."""
    with path.open("rb") as file:
        file.seek(-4, 2)
        return int.from_bytes(file.read(4), "little")


def _voxels(path: Path) -> np.ndarray:
    """Read all voxels with the header's scaling, as nibabel's ``get_fdata`` does."""
    import nibabel

    try:
        volume: Any = nibabel.load(path)
        return np.asanyarray(volume.dataobj)
    except Exception as error:  # nibabel and zlib raise many kinds for a broken file
        raise ValueError(_unreadable(path, error)) from None


def _unreadable(path: Path, error: Exception) -> str:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return f"{path}: cannot be read, it is truncated or damaged ({reason}); fetch this case again"


def _some(cases: Sequence[str]) -> str:
    """Format cases as ``case_00003`` or ``37 cases (00003, 00004, ...)``."""
    if len(cases) == 1:
        return f"case_{cases[0]}"
    dots = ", ..." if len(cases) > MOST_NAMED_CASES else ""
    return f"{len(cases)} cases ({', '.join(cases[:MOST_NAMED_CASES])}{dots})"
