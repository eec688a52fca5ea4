"""Phantom CT volumes in KiTS19's raw layout: two kidneys, one tumour, noise, thick slices.

Each case is a function of its number alone, so that every machine writes the same voxels.
"""

from pathlib import Path

import numpy as np

VERSION = "1"  # raise it whenever the written voxels change
NUM_CASES = 20
EVALUATION = ("00003", "00006", "00010", "00013", "00016", "00019")
SPACING_MM = (3.2, 1.2, 1.2)  # slices twice as thick as the benchmark's grid: resampling has work

BACKGROUND_HU, KIDNEY_HU, TUMOUR_HU, NOISE_HU = -30.0, 130.0, 270.0, 20.0
BLUR_VOXELS = 0.3
# Voxels (slices, height, width) of a raw volume: 36 to 56 each once slices are resampled, so that
# the sliding window (stride 16 at window 32) crops some axes and pads others.
SMALLEST, LARGEST = (18, 36, 36), (28, 56, 56)
STREAM = 20191  # keeps the phantoms' random numbers apart from every other use of a case number


def write_phantoms(folder: Path) -> None:
    """Write all demo cases as ``case_XXXXX/{imaging,segmentation}.nii.gz``."""
    for number in range(NUM_CASES):
        image_DHW, label_DHW = phantom(number)
        case = folder / f"case_{number:05d}"
        case.mkdir()
        save_nifti(case / "imaging.nii.gz", image_DHW)
        save_nifti(case / "segmentation.nii.gz", label_DHW)


def save_nifti(
    path: Path, volume_DHW: np.ndarray, spacing: tuple[float, float, float] = SPACING_MM
) -> None:
    """Write one volume, int16 or uint8, as compressed NIfTI; spacing in mm (D, H, W)."""
    import nibabel

    nibabel.save(nibabel.Nifti1Image(volume_DHW, np.diag([*spacing, 1.0])), path)


def phantom(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return one raw case: image_DHW int16 in Hounsfield units and label_DHW uint8 in 0..2."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng([STREAM, number])
    shape = tuple(int(rng.integers(a, b + 1)) for a, b in zip(SMALLEST, LARGEST, strict=True))
    # Coordinates in voxels of the benchmark's grid, where the shapes' sizes are given.
    scale = np.array([2.0, 1.0, 1.0])
    grid_3DHW = np.indices(shape) * scale[:, None, None, None]
    extent = np.array(shape) * scale
    label = np.zeros(shape, np.uint8)
    for side in (0.28, 0.72):  # left and right half of the width
        semi_axes = rng.uniform([10, 7, 6], [13, 9, 8])
        centre = extent * [0.5, 0.5, side] + rng.uniform(-2, 2, 3)
        label[_within(grid_3DHW, centre, semi_axes)] = 1
    kidney_voxels = np.argwhere(label == 1)
    centre = kidney_voxels[rng.integers(len(kidney_voxels))] * scale
    label[_within(grid_3DHW, centre, np.full(3, rng.uniform(5, 7)))] = 2
    # The tumour is brighter than the kidney: with a value between kidney and background every
    # kidney border would look like tumour.
    clean = np.array([BACKGROUND_HU, KIDNEY_HU, TUMOUR_HU])[label]
    image = gaussian_filter(clean, BLUR_VOXELS) + rng.normal(0.0, NOISE_HU, shape)
    return np.rint(image).astype(np.int16), label


def _within(grid_3DHW: np.ndarray, centre: np.ndarray, semi_axes: np.ndarray) -> np.ndarray:
    offset = (grid_3DHW - centre[:, None, None, None]) / semi_axes[:, None, None, None]
    return (offset**2).sum(axis=0) <= 1.0
