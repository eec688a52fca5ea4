"""Tiny raw KiTS19 folders for the tests of preparation."""

from pathlib import Path

import numpy as np

from datamodules.kits19.demo import save_nifti
from datamodules.kits19.split import CaseSplit

SPLIT = CaseSplit(("00000", "00001", "00003"), ("00002",))
MINIMUM = (8, 8, 8)
SHAPE = (5, 9, 7)


def write_case(folder: Path, case: str, shape: tuple[int, ...] = SHAPE) -> Path:
    """One raw case: noise, with a kidney and a tumour."""
    rng = np.random.default_rng(int(case))
    where = folder / f"case_{case}"
    where.mkdir(parents=True)
    image = rng.normal(50, 200, shape).astype(np.int16)
    label = np.zeros(shape, np.uint8)
    label[1:3, 2:6, 2:5], label[2, 3, 3] = 1, 2
    save_nifti(where / "imaging.nii.gz", image)
    save_nifti(where / "segmentation.nii.gz", label)
    return where


def write_raw(folder: Path) -> Path:
    """All cases of ``SPLIT``, and one beyond the labelled ones."""
    for case in (*SPLIT.cases, "00210"):
        write_case(folder, case)
    return folder
