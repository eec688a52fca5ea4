"""Preprocessing of one KiTS19 case: resample, clip, normalise, pad, save.

Letters: D H W voxels, before or after resampling.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from datamodules.common.atomic import atomic_file
from datamodules.common.preparation import Done
from datamodules.common.records import raw_file
from datamodules.kits19.cases import PreparedCase, image_path, label_path
from datamodules.kits19.nifti import MOST_VOXELS
from datamodules.kits19.raw import IMAGE, LABEL, RawCase, read_case

TARGET_SPACING_MM = (1.6, 1.2, 1.2)
CLIP_HU = (-79.0, 304.0)
MEAN_HU, STD_HU = 101.0, 76.9


def resampled_shape(shape: Sequence[int], spacing: Sequence[float]) -> list[int]:
    """Return the size (D, H, W) at the target spacing, truncated."""
    # Unchanged only if the spacing is exactly the target. A float32 header never equals 1.6, so
    # in practice every case is resampled.
    if list(spacing) == list(TARGET_SPACING_MM):
        return list(shape)
    return [
        int(old / new * size)
        for size, old, new in zip(shape, spacing, TARGET_SPACING_MM, strict=True)
    ]


def padded_shape(shape: Sequence[int], minimum: Sequence[int]) -> tuple[int, ...]:
    """Return the larger of size and minimum, per axis."""
    return tuple(max(pair) for pair in zip(shape, minimum, strict=True))


def prepared_bytes(raw: RawCase, minimum: Sequence[int]) -> int:
    """Return the disk space of a preprocessed case: float32 image and uint8 label."""
    return 5 * math.prod(padded_shape(resampled_shape(raw.shape, raw.spacing), minimum))


def preprocess(
    image_1DHW: np.ndarray,
    label_1DHW: np.ndarray,
    spacing: Sequence[float],
    minimum: Sequence[int],
) -> tuple[np.ndarray, np.ndarray]:
    """Resample to 1.6 x 1.2 x 1.2 mm, clip and normalise the image, pad both by repeating the edge.

    Takes float32 Hounsfield units and uint8 classes; gives float32 in about [-2.341, 2.640] and
    uint8, at least ``minimum`` voxels (D, H, W).

    Source:
        mlcommons/training @ 9947bdf2, image_segmentation/pytorch/preprocess_dataset.py.
    """
    import torch.nn.functional as F
    from torch import from_numpy

    size = resampled_shape(image_1DHW.shape[1:], spacing)
    if list(spacing) != list(TARGET_SPACING_MM):
        image_1DHW = F.interpolate(
            from_numpy(image_1DHW)[None], size=size, mode="trilinear", align_corners=True
        )[0].numpy()
        # "nearest" floors the scaled index, as the reference does; "nearest-exact" would not.
        small = from_numpy(label_1DHW)[None]
        label_1DHW = F.interpolate(small, size=size, mode="nearest")[0].numpy()
    image_1DHW = (np.clip(image_1DHW, *CLIP_HU) - MEAN_HU) / STD_HU
    missing = [max(0, least - now) for now, least in zip(size, minimum, strict=True)]
    pads = [(0, 0), *((lack // 2, lack - lack // 2) for lack in missing)]
    return np.pad(image_1DHW, pads, mode="edge"), np.pad(label_1DHW, pads, mode="edge")


def prepare_case(
    raw: RawCase, out: Path, minimum: Sequence[int], checksums: Mapping[str, str]
) -> Done:
    """Preprocess one raw case into two ``.npy`` files; the result is its record."""
    size = resampled_shape(raw.shape, raw.spacing)
    if not 0 < math.prod(size) <= MOST_VOXELS:
        raise ValueError(
            f"{raw.folder / IMAGE}: {raw.shape} voxels of {raw.spacing} mm become {tuple(size)} at "
            f"{TARGET_SPACING_MM} mm; correct its header's voxel size"
        )
    facts = [raw_file(raw.folder / name) for name in (IMAGE, LABEL)]
    image, label = read_case(raw)
    labels = tuple(np.unique(label).tolist())
    image, label = preprocess(image, label, raw.spacing, minimum)
    path = label_path(out, raw.case)
    md5_y = save_npy(path, label)
    if raw.geometry and md5_y != checksums.get(path.name):
        path.unlink()
        raise ValueError(raw.geometry)
    md5_x = save_npy(image_path(out, raw.case), image)
    depth, height, width = image.shape[1:]
    return Done(vars(PreparedCase(raw.case, (depth, height, width), md5_x, md5_y, labels)), facts)


def save_npy(path: Path, array: np.ndarray) -> str:
    """Write an array atomically; return the file's MD5."""
    with atomic_file(path) as file:
        np.save(file, np.ascontiguousarray(array), allow_pickle=False)
    return md5_of(path)


def md5_of(path: Path) -> str:
    """Return the MD5 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def inspect_case(folder: Path, case: str, minimum: Sequence[int]) -> PreparedCase:
    """Check one case that was preprocessed elsewhere and return its record.

    Raises a ValueError if a file is missing or damaged, or shapes, types or labels are wrong.
    """
    arrays = []
    for path, dtype in ((image_path(folder, case), "float32"), (label_path(folder, case), "uint8")):
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise ValueError(f"{path}: is missing; preprocess this case again") from None
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{path}: cannot be read ({error}); preprocess it again") from None
        if array.ndim != 4 or array.dtype != dtype:
            raise ValueError(
                f"{path}: is {array.dtype} with shape {array.shape}, expected {dtype} (1, D, H, W)"
            )
        arrays.append(array)
    image, label = arrays
    if image.shape != label.shape or any(
        now < least for now, least in zip(image.shape[1:], minimum, strict=True)
    ):
        raise ValueError(
            f"{image_path(folder, case)}: has shape {image.shape} and its label {label.shape}; "
            f"expected equal shapes of at least {tuple(minimum)}"
        )
    if not np.isfinite(image).all():
        raise ValueError(f"{image_path(folder, case)}: has voxels that are not finite")
    depth, height, width = image.shape[1:]
    return PreparedCase(
        case,
        (depth, height, width),
        md5_of(image_path(folder, case)),
        md5_of(label_path(folder, case)),
        tuple(np.unique(label).tolist()),
    )
