"""NIfTI volumes: the header as it was written, the geometry of two, and all voxels or none.

nibabel repairs a header in silence (a voxel size of 0 becomes 1 mm) and stops reading where the
voxels end, before gzip's checksum. Here neither passes.
"""

import gzip
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.common.reading import unreadable

MOST_VOXELS = 2**30  # four times the largest case of KiTS19
MOST_MM = 3000.0  # of one axis: no CT is longer, a header in micrometres is
SPACING_TOLERANCE = 1e-3  # relative
PLACE_TOLERANCE = 0.1  # of the smallest voxel side
_HEADER_BYTES = {348: "Nifti1Header", 540: "Nifti2Header"}
_UNIT_MM, _UNIT_UNKNOWN = 2, 0
_DIRECTIONS = {"R": "x", "L": "x", "A": "y", "P": "y", "S": "z", "I": "z"}


@dataclass(frozen=True)
class Header:
    """A volume as its header describes it."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]  # in mm, of the same axes
    affine: tuple[tuple[float, ...], ...] | None  # voxel to mm; None if no position is stated

    @property
    def orientation(self) -> str:
        """The anatomical direction of each axis, such as ``SPL``; empty if it is not stated."""
        import nibabel

        return "" if self.affine is None else "".join(map(str, nibabel.aff2axcodes(self.affine)))

    @property
    def axis_order(self) -> str:
        """The axes without their signs, such as ``zyx``; empty if they are not stated."""
        return "".join(_DIRECTIONS.get(letter, "?") for letter in self.orientation)


def read_header(path: Path) -> Header:
    """Read a header and check that the file is complete; raise a ValueError of one line."""
    import nibabel

    stored = _stored_header(path)
    problem = _header_problem(stored)
    if problem:
        raise ValueError(f"{path}: {problem}")
    try:
        volume: Any = nibabel.load(path)
        shape = tuple(int(size) for size in volume.shape)
        dtype = volume.dataobj.dtype
        expected = int(volume.dataobj.offset) + dtype.itemsize * math.prod(shape)
        whole = _unpacked_size(path) == expected % 2**32
    except Exception as error:  # nibabel and zlib raise many kinds for a broken file
        raise _broken(path, error) from None
    spacing = stored["pixdim"][1:4].astype(float).tolist()
    if problem := _shape_problem(shape, spacing, dtype):
        raise ValueError(f"{path}: {problem}; fetch this case again")
    if not whole:
        read_voxels(path)  # several gzip members also look like this: only reading it all can tell
    known = int(stored["sform_code"]) or int(stored["qform_code"])
    if known and not (np.isfinite(volume.affine).all() and np.linalg.det(volume.affine)):
        raise ValueError(f"{path}: its header's affine is not a position in space; correct it")
    affine = tuple(map(tuple, volume.affine.tolist())) if known else None
    return Header((shape[0], shape[1], shape[2]), tuple(spacing), affine)


def read_voxels(path: Path) -> np.ndarray:
    """Read all voxels with the header's scaling, as nibabel's ``get_fdata`` does."""
    import nibabel

    try:
        kind: Any = type(nibabel.load(path))
        with _opened(path) as file:
            voxels = np.asanyarray(kind.from_stream(file).dataobj)
            surplus = file.read(1)  # at the end, where gzip's checksum is compared
    except Exception as error:  # nibabel and zlib raise many kinds for a broken file
        raise _broken(path, error) from None
    if surplus:
        raise ValueError(
            f"{path}: holds more than its header's {voxels.shape} voxels; fetch this case again"
        )
    return voxels


def geometry_problem(image: Header, label: Header) -> str:
    """Say in a few words how a label lies elsewhere than its image; empty if it does not."""
    for name, header in (("the image", image), ("the label", label)):
        if header.affine is not None:
            sides = np.linalg.norm(np.array(header.affine)[:3, :3], axis=0)
            if not np.allclose(sides, header.spacing, rtol=SPACING_TOLERANCE):
                return f"{name} states voxels of {_mm(header.spacing)} and of {_mm(sides)}"
    if not np.allclose(image.spacing, label.spacing, rtol=SPACING_TOLERANCE):
        return f"voxels of {_mm(label.spacing)}, but the image's are {_mm(image.spacing)}"
    if image.affine is None or label.affine is None:
        return ""
    if image.orientation != label.orientation:
        return f"axes {label.orientation}, but the image's are {image.orientation}"
    corners = np.indices((2, 2, 2)).reshape(3, 8).T * (np.array(image.shape) - 1)
    shift = np.array(label.affine) - np.array(image.affine)
    away = np.linalg.norm(corners @ shift[:3, :3].T + shift[:3, 3], axis=1).max()
    if away > PLACE_TOLERANCE * min(image.spacing):
        return f"the label lies {away:.1f} mm away from the image"
    return ""


def _stored_header(path: Path) -> Any:
    """Return the header's fields without nibabel's repairs."""
    import nibabel

    try:
        with _opened(path) as file:
            block = file.read(max(_HEADER_BYTES))
        for size, name in _HEADER_BYTES.items():
            if size in (int.from_bytes(block[:4], order) for order in ("little", "big")):
                return getattr(nibabel, name)(block[:size], check=False)
        raise ValueError("not NIfTI")
    except Exception as error:
        raise _broken(path, error) from None


def _header_problem(stored: Any) -> str:
    spacing = stored["pixdim"][1:4].tolist()
    if not all(0 < side < math.inf for side in spacing):
        return f"its header's voxel size is {_mm(spacing)}; correct it or fetch this case again"
    if int(stored["xyzt_units"]) & 7 not in (_UNIT_MM, _UNIT_UNKNOWN):
        return "its header's unit is not mm; convert the voxel size to mm"
    return ""


def _shape_problem(shape: tuple[int, ...], spacing: list[float], dtype: np.dtype[Any]) -> str:
    if len(shape) != 3:
        return f"has shape {shape}, expected three axes"
    if min(shape) < 1:
        return f"has shape {shape}, expected at least one voxel"
    if math.prod(shape) > MOST_VOXELS:
        return f"has {math.prod(shape)} voxels, more than the {MOST_VOXELS} that are allowed"
    if dtype.kind not in "iuf":
        return f"has voxels of type {dtype}, expected one number each"
    longest = max(size * side for size, side in zip(shape, spacing, strict=True))
    if longest > MOST_MM:
        return f"is {longest:g} mm long by its header's voxel size of {_mm(spacing)}"
    return ""


def _opened(path: Path) -> Any:
    """Open a file for reading; one of ``predict`` may be without compression."""
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _unpacked_size(path: Path) -> int:
    """Return the size modulo 2^32 that a gzip file states in its last four bytes."""
    if path.suffix != ".gz":
        return path.stat().st_size
    with path.open("rb") as file:
        file.seek(-4, 2)
        return int.from_bytes(file.read(4), "little")


def _broken(path: Path, error: Exception) -> ValueError:
    if isinstance(error, OSError) and error.errno is not None:
        return unreadable(path, error)
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ValueError(
        f"{path}: cannot be read, it is truncated or damaged ({reason}); fetch this case again"
    )


def _mm(sides: Any) -> str:
    return " x ".join(f"{side:.4g}" for side in sides) + " mm"
