"""NIfTI files whose header or voxels are not what they should be: named, never repaired."""

import errno
import gzip
import io
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from datamodules.kits19 import nifti
from datamodules.kits19.demo import save_nifti
from datamodules.kits19.nifti import read_header, read_voxels
from datamodules.kits19.raw import read_case, scan_case, scan_cases
from tests.datamodules.kits19.tiny_kits19 import SHAPE, write_case


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """The folder of a good case."""
    return write_case(tmp_path, "00000")


def header_bytes(offset: int, value: object) -> Callable[[Path], None]:
    """Overwrite a part of the header."""

    def spoil(path: Path) -> None:
        raw = bytearray(gzip.decompress(path.read_bytes()))
        content = np.asarray(value).tobytes()
        raw[offset : offset + len(content)] = content
        path.write_bytes(gzip.compress(bytes(raw)))

    return spoil


def colours(path: Path) -> None:
    voxels = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([3.2, 1.2, 1.2, 1.0])), path)


def checksum(path: Path) -> None:
    """Flip a bit of gzip's checksum, behind everything that nibabel reads."""
    raw = bytearray(path.read_bytes())
    raw[-8] ^= 1
    path.write_bytes(raw)


FIRST_SIZE, SPACING, UNIT, QFORM_AND_SFORM_CODE, AFFINE = 42, 80, 123, 252, 280


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (header_bytes(SPACING, np.float32(np.nan)), "voxel size is nan x 1.2 x 1.2 mm; correct"),
        (header_bytes(SPACING, np.float32(0)), "voxel size is 0 x 1.2 x 1.2 mm"),
        (header_bytes(SPACING, np.float32(-3.2)), "voxel size is -3.2 x"),
        (header_bytes(SPACING, np.float32(np.inf)), "voxel size is inf x"),
        (header_bytes(SPACING, np.float32(3200)), "is 16000 mm long by its header's voxel size"),
        (header_bytes(UNIT, np.uint8(1)), "unit is not mm"),
        (header_bytes(FIRST_SIZE, np.int16(4)), "holds more than its header's"),
        (
            header_bytes(FIRST_SIZE, np.array([30000] * 3, np.int16)),
            "27000000000000 voxels",
        ),
        (header_bytes(AFFINE, np.float32(np.nan)), "affine is not a position in space"),
        (header_bytes(AFFINE, np.float32(0)), "affine is not a position in space"),
        (lambda path: (path.parent / "imaging.nii").touch(), "lies next to imaging.nii.gz; rem"),
        (colours, "expected one number each"),
        (lambda path: path.write_bytes(gzip.compress(b"x" * 600)), "not NIfTI"),
        (lambda path: save_nifti(path, np.zeros((*SHAPE, 2), np.uint8)), "expected three axes"),
    ],
)
def test_bad_header_gets_one_line(case: Path, spoil: Callable[[Path], None], words: str) -> None:
    path = case / "imaging.nii.gz"
    spoil(path)
    with pytest.raises(ValueError, match=words) as caught:
        scan_case(case)
    assert str(caught.value).startswith(str(case / "imaging.nii"))
    assert "\n" not in str(caught.value)


def test_checksum_of_gzip_is_compared(tmp_path: Path) -> None:
    case = write_case(tmp_path, "00001", (20, 30, 30))
    checksum(case / "imaging.nii.gz")
    assert nibabel.load(case / "imaging.nii.gz").get_fdata().size == 18000  # which passes it
    with pytest.raises(ValueError, match=r"imaging.nii.gz: cannot be read, .*CRC check failed"):
        read_case(scan_case(case))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_voxel_that_is_not_finite_is_named(case: Path, value: float) -> None:
    path = case / "imaging.nii.gz"
    voxels = read_voxels(path).astype(np.float64)
    voxels[2, 3, 4] = value
    save_nifti(path, voxels)
    with pytest.raises(ValueError, match=f"^{path}: 1 of 315 voxels are not finite"):
        read_case(scan_case(case))


def relabel(case: Path, affine: np.ndarray) -> None:
    """Give the label another position."""
    path = case / "segmentation.nii.gz"
    nibabel.save(nibabel.Nifti1Image(read_voxels(path).astype(np.uint8), affine), path)


IMAGE_AFFINE = np.diag([3.2, 1.2, 1.2, 1.0])


def moved(millimetres: float) -> np.ndarray:
    """The image's affine, shifted along the second axis."""
    affine = IMAGE_AFFINE.copy()
    affine[1, 3] = millimetres
    return affine


@pytest.mark.parametrize(
    ("affine", "words"),
    [
        (np.eye(4), "voxels of 1 x 1 x 1 mm, but the image's are 3.2 x 1.2 x 1.2 mm"),
        (np.diag([-3.2, 1.2, 1.2, 1.0]), "axes LAS, but the image's are RAS"),
        (IMAGE_AFFINE[[0, 2, 1, 3]], "axes RSA, but the image's are RAS"),
        (moved(5.0), "the label lies 5.0 mm away from the image"),
    ],
)
def test_label_that_lies_elsewhere_is_named(case: Path, affine: np.ndarray, words: str) -> None:
    relabel(case, affine)
    good, (line,) = scan_cases(case.parent, ["00000"])
    assert good == []
    assert line.startswith(f"{case / 'segmentation.nii.gz'}: {words}")
    good, lines = scan_cases(case.parent, ["00000"], trusted=True)  # the checksums decide
    assert (len(good), lines) == (1, [])


def test_rounded_position_and_a_label_without_one_are_accepted(case: Path) -> None:
    relabel(case, moved(1e-2))
    assert scan_case(case).geometry == ""
    path = case / "segmentation.nii.gz"
    header_bytes(QFORM_AND_SFORM_CODE, np.zeros(2, np.int16))(path)
    assert read_header(path).affine is None
    assert scan_case(case).geometry == ""


def test_voxel_size_that_contradicts_the_affine_is_named(case: Path) -> None:
    header_bytes(SPACING, np.float32(1.6))(case / "imaging.nii.gz")
    header_bytes(SPACING, np.float32(1.6))(case / "segmentation.nii.gz")
    assert "the image states voxels of 1.6 x 1.2 x 1.2 mm and of 3.2" in scan_case(case).geometry


def test_case_with_its_axes_in_another_order_is_named(tmp_path: Path) -> None:
    for number in range(3):
        write_case(tmp_path, f"0000{number}")
    odd = tmp_path / "case_00001"
    for name in ("imaging.nii.gz", "segmentation.nii.gz"):
        voxels = read_voxels(odd / name).astype(np.int16)
        affine = IMAGE_AFFINE[[2, 1, 0, 3]]
        nibabel.save(nibabel.Nifti1Image(voxels, affine), odd / name)
    _, (line,) = scan_cases(tmp_path, ["00000", "00001", "00002"])
    assert line.startswith(f"{odd / 'imaging.nii.gz'}: its axes are zyx, those of most cases xyz")


@pytest.mark.parametrize("error", [errno.ESTALE, errno.EACCES, errno.EIO])
def test_file_that_cannot_be_read_is_named_itself(
    case: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def fail(path: Path, *arguments: object) -> io.BytesIO:
        raise OSError(error, "no luck", str(path))

    monkeypatch.setattr(nifti.gzip, "open", fail)
    _, (line,) = scan_cases(case.parent, ["00000"])
    assert line == f"{case / 'imaging.nii.gz'}: cannot be read (no luck)"
