"""CT volumes from outside the data set, and masks on their own grid.

Letters: D H W voxels, of the file or of the benchmark's grid (1.6 x 1.2 x 1.2 mm).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from datamodules.common.inputs import input_file, without_remedy
from datamodules.kits19.nifti import Header, read_header, read_voxels
from datamodules.kits19.prepare import preprocess, resampled_shape
from datamodules.kits19.raw import IMAGE

WHAT = "a CT volume (.nii or .nii.gz)"
ENDINGS = (".nii", ".nii.gz")
# Slices from head to foot, rows from front to back, columns from right to left.
KITS19_AXES = ("I", "P", "L")


class Grid(NamedTuple):
    """The voxels of an input file, and how the network's volume was made of them."""

    volume: Any  # nibabel image
    turn: np.ndarray  # (3, 2) orientation transform from the file's axes to the data set's
    back: np.ndarray  # its inverse
    resampled: tuple[int, ...]  # D, H, W before padding


def read_volume(source: str, axes: tuple[str, ...], minimum: Sequence[int]) -> dict[str, Any]:
    """Read and preprocess one volume as an evaluation case is.

    Args:
        source: NIfTI file, intensities in Hounsfield units, axes in any order.
        axes: Directions of the data set's axes (D, H, W), such as ``("I", "P", "L")``. A file that
            states no directions is taken to have these.
        minimum: Least voxels of the result per axis.

    Returns:
        ``image`` (1, 1, D, H, W) float32, and ``grid``, a ``Grid``.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is no volume of three axes with finite voxels and a spacing.
    """
    from nibabel import orientations

    header, volume, voxels = _load(source)
    own = orientations.io_orientation(volume.affine)
    wanted = orientations.axcodes2ornt(axes) if header.affine is not None else own
    turn, back = (orientations.ornt_transform(*pair) for pair in ((own, wanted), (wanted, own)))
    image = np.ascontiguousarray(orientations.apply_orientation(voxels, turn))
    # The first column says where each axis goes.
    spacing = [header.spacing[i] for i in np.argsort(turn[:, 0])]
    size = tuple(resampled_shape(image.shape, spacing))
    if min(size) < 1:
        raise ValueError(f"{source}: has an axis shorter than one voxel of the benchmark's grid")
    nothing = np.zeros((1, *image.shape), np.uint8)
    image, _ = preprocess(image[None], nothing, spacing, minimum)
    return {
        "image": torch.from_numpy(np.ascontiguousarray(image, np.float32))[None],
        "grid": Grid(volume, turn, back, size),
    }


def _load(source: str) -> tuple[Header, Any, np.ndarray]:
    """Return header, nibabel image and voxels, float32."""
    import nibabel

    path = input_file(source, WHAT)
    if not path.name.endswith(ENDINGS):
        raise ValueError(f"{source}: is not {WHAT}")
    try:
        header, voxels = read_header(path), read_voxels(path).astype(np.float32)
    except ValueError as error:
        raise without_remedy(error) from error
    if not np.isfinite(voxels).all():
        raise ValueError(f"{source}: has voxels that are not finite numbers")
    return header, nibabel.load(path), voxels


def write_mask(path: Path, mask_DHW: np.ndarray, grid: Grid) -> np.ndarray:
    """Write a mask on the grid of the input's file.

    Args:
        path: NIfTI file to write.
        mask_DHW: Class ids, uint8, of the volume that the network saw.
        grid: From ``read_volume``.

    Returns:
        The volume in millilitres of each class from 1 on, float64.
    """
    import nibabel
    from nibabel import orientations

    shape = grid.volume.shape
    turned = tuple(shape[i] for i in np.argsort(grid.turn[:, 0]))
    sizes = zip(mask_DHW.shape, grid.resampled, turned, strict=True)
    nearest = np.ix_(*(_nearest(*size) for size in sizes))
    mask = orientations.apply_orientation(mask_DHW[nearest], grid.back).astype(np.uint8)
    header = grid.volume.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    nibabel.save(type(grid.volume)(mask, grid.volume.affine, header), path)
    voxel_ml = float(np.prod(grid.volume.header.get_zooms())) / 1000
    return np.bincount(mask.ravel(), minlength=2)[1:] * voxel_ml


def _nearest(padded: int, resampled: int, size: int) -> np.ndarray:
    """Return, for each voxel of the file along an axis, the nearest of the padded volume."""
    # Resampling put the centres of the first and last voxels onto each other.
    return (padded - resampled) // 2 + np.rint(np.linspace(0, resampled - 1, size)).astype(int)


def axes_of(folder: Path) -> tuple[str, ...]:
    """Return the directions of a data set's axes, from its first raw case; else KiTS19's own."""
    import nibabel

    path = next(iter(sorted(folder.glob(f"case_*/{IMAGE}"))), None)
    if path is None:
        return KITS19_AXES
    try:
        volume: Any = nibabel.load(path)
        return tuple(nibabel.aff2axcodes(volume.affine))
    except Exception:  # damaged; prepare names it
        return KITS19_AXES
