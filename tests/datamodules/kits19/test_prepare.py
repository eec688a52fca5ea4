"""Preprocessing: the arithmetic, the checks, restarts, and what is said when something is wrong."""

import errno
import json
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from datamodules.common import preparation
from datamodules.common.preparation import Done
from datamodules.common.records import read_records
from datamodules.kits19 import build as builder
from datamodules.kits19 import prepare
from datamodules.kits19.build import adopt, build
from datamodules.kits19.cases import Cases, image_path, label_path, read_cases
from datamodules.kits19.checksums import checksum_verdict, reference_checksums
from datamodules.kits19.demo import save_nifti
from datamodules.kits19.prepare import md5_of, preprocess, resampled_shape
from datamodules.kits19.raw import RawCase, find_data, read_case, scan_case, scan_cases
from datamodules.kits19.split import CaseSplit, kits19_split
from tests.datamodules.kits19.tiny_kits19 import MINIMUM, SHAPE, SPLIT, write_case, write_raw


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A good raw folder."""
    return write_raw(tmp_path / "raw")


def make(raw: Path, out: Path, **options: object) -> Cases:
    """Build with the tests' usual arguments."""
    arguments: dict[str, object] = {"checksums": {}, "processes": 1, **options}
    return build(raw, out, SPLIT, MINIMUM, **arguments)  # type: ignore[arg-type]


def visible(folder: Path) -> set[str]:
    """Names in a prepared folder, lock and log aside."""
    return {path.name for path in folder.iterdir()} - {".lock", "prepare.log"}


def test_split_is_168_and_42_of_210() -> None:
    split = kits19_split()
    assert (len(split.train), len(split.evaluation)) == (168, 42)
    assert split.cases == tuple(f"{number:05d}" for number in range(210))
    assert split.evaluation[:3] == ("00000", "00003", "00005")


def test_checksum_list_has_two_files_of_every_case() -> None:
    sums = reference_checksums()
    names = {f"case_{case}_{part}.npy" for case in kits19_split().cases for part in "xy"}
    assert set(sums) == names
    assert sums["case_00000_x.npy"] == "2504f143577e824cb50ce31904c120a1"
    assert sums["case_00000_y.npy"] == "5114568eb3c160ed148738ead6316e95"


def test_resampled_shape_truncates_and_keeps_the_exact_spacing() -> None:
    single = [float(np.float32(size)) for size in (3.2, 1.2, 0.7)]
    assert resampled_shape((20, 36, 101), single) == [40, 36, 58]
    assert resampled_shape((611, 512, 512), (0.5, 0.919922, 0.919922)) == [190, 392, 392]
    assert resampled_shape((5, 6, 7), (1.6, 1.2, 1.2)) == [5, 6, 7]


def test_preprocess_equals_an_independent_formulation() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(50, 200, (1, 7, 9, 11)).astype(np.float32)
    label = rng.integers(0, 3, (1, 7, 9, 11)).astype(np.uint8)
    spacing, size = (3.0, 1.5, 0.9), (13, 11, 8)
    got_image, got_label = preprocess(image, label, spacing, (16, 11, 11))
    # Corners aligned: output i samples input i * (n - 1) / (m - 1).
    corners = [np.linspace(0, n - 1, m) for n, m in zip((7, 9, 11), size, strict=True)]
    values = map_coordinates(
        image[0].astype(np.float64), np.meshgrid(*corners, indexing="ij"), order=1
    )
    values = (np.clip(values, -79, 304) - 101) / 76.9
    # The older nearest: floor(i * n / m).
    floors = [(np.arange(m) * n) // m for n, m in zip((7, 9, 11), size, strict=True)]
    classes = label[0][np.ix_(*floors)]
    pads = [(1, 2), (0, 0), (1, 2)]
    np.testing.assert_allclose(got_image[0], np.pad(values, pads, mode="edge"), atol=2e-5)
    assert np.array_equal(got_label[0], np.pad(classes, pads, mode="edge"))
    assert (got_image.dtype, got_label.dtype) == (np.float32, np.uint8)


def test_read_case_scaled_file_equals_get_fdata(tmp_path: Path) -> None:
    folder = write_case(tmp_path, "00000")
    volume = nibabel.Nifti1Image(np.arange(5 * 9 * 7, dtype=np.int16).reshape(SHAPE), np.eye(4))
    volume.header.set_slope_inter(0.37, -1024.5)
    nibabel.save(volume, folder / "imaging.nii.gz")
    image, _ = read_case(scan_case(folder))
    expected = nibabel.load(folder / "imaging.nii.gz").get_fdata().astype(np.float32)
    assert np.array_equal(image[0], expected)


def test_build_writes_the_reference_layout_and_a_manifest(raw: Path, tmp_path: Path) -> None:
    done = make(raw, tmp_path / "out")
    assert tuple(sorted(done)) == SPLIT.cases  # case 210 has no public label and is left out
    files = {f"case_{case}_{part}.npy" for case in SPLIT.cases for part in "xy"}
    assert visible(tmp_path / "out") == files | {"manifest.json", "records.jsonl"}
    image = np.load(image_path(tmp_path / "out", "00000"))
    label = np.load(label_path(tmp_path / "out", "00000"))
    assert (image.shape, image.dtype) == ((1, 10, 9, 8), np.float32)  # 5 slices of 3.2 mm
    assert (label.shape, label.dtype) == ((1, 10, 9, 8), np.uint8)
    entry = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert entry["num_cases"] == 4
    assert entry["cases"][0]["md5_y"] == md5_of(label_path(tmp_path / "out", "00000"))
    assert read_cases(tmp_path / "out", MINIMUM) == done


def test_build_in_two_processes_writes_the_same_bytes(raw: Path, tmp_path: Path) -> None:
    assert make(raw, tmp_path / "a") == make(raw, tmp_path / "b", processes=2)


def test_build_killed_run_goes_on_without_redoing_cases(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, worked = tmp_path / "out", []

    def killed_at_third(case: RawCase, **options: object) -> Done:
        if len(worked) == 2:
            raise KeyboardInterrupt
        worked.append(case.case)
        return prepare.prepare_case(case, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(builder, "prepare_case", killed_at_third)
    with pytest.raises(KeyboardInterrupt):
        make(raw, out)
    (out / "records.jsonl").open("a").write('\n{"unit": "00003", "fing')  # half a line
    (out / ".case_00003_x.npy.partial-4711").touch()
    first = set(worked)
    monkeypatch.setattr(builder, "prepare_case", prepare.prepare_case)
    stamps = {case: image_path(out, case).stat().st_mtime_ns for case in first}
    done = make(raw, out)
    assert {case: image_path(out, case).stat().st_mtime_ns for case in first} == stamps
    assert done == make(raw, tmp_path / "fresh")
    assert visible(out) == visible(tmp_path / "fresh")


def version_0_1(out: Path, done: Cases) -> None:
    """Give a prepared folder the manifest of finishline 0.1, which had no records."""
    cases = [vars(done[case]) for case in sorted(done)]
    entry = {"format": 1, "minimum_shape": list(MINIMUM), "num_cases": 4, "num_voxels": 2880}
    (out / "manifest.json").write_text(json.dumps({**entry, "cases": cases}) + "\n")
    for name in ("records.jsonl", "prepare.log"):
        (out / name).unlink()


def test_folder_of_version_0_1_is_read_and_a_lost_case_redone_alone(
    raw: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = make(raw, out)
    version_0_1(out, done)
    assert read_cases(out, MINIMUM) == done
    with pytest.raises(ValueError, match=r"minimum_shape \[8, 8, 8\], this run needs \[9, 9, 9\]"):
        read_cases(out, (9, 9, 9))
    label_path(out, "00001").unlink()
    stamps = {case: image_path(out, case).stat().st_mtime_ns for case in ("00000", "00002")}
    assert make(raw, out) == done == read_cases(out, MINIMUM)
    assert {case: image_path(out, case).stat().st_mtime_ns for case in stamps} == stamps
    assert set(read_records(out)) == {"", *SPLIT.cases}


def test_half_a_folder_of_version_0_1_is_not_read_but_prepared(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = make(raw, out)
    note = {"format": 1, "minimum_shape": list(MINIMUM), "cases": [vars(done["00000"])]}
    (out / "progress.jsonl").write_text("\n" + json.dumps(note) + "\n")
    for name in ("manifest.json", "records.jsonl"):
        (out / name).unlink()
    assert read_cases(out, MINIMUM) == {}
    assert make(raw, out) == done
    assert not (out / "progress.jsonl").exists()


def test_build_case_file_deleted_later_is_made_again(raw: Path, tmp_path: Path) -> None:
    done = make(raw, tmp_path / "out")
    label_path(tmp_path / "out", "00001").unlink()
    assert "00001" not in read_cases(tmp_path / "out", MINIMUM)
    assert make(raw, tmp_path / "out") == done


def test_build_other_minimum_shape_is_refused(raw: Path, tmp_path: Path) -> None:
    make(raw, tmp_path / "out")
    with pytest.raises(ValueError, match=r"minimum_shape \[8, 8, 8\], this run needs \[9, 9"):
        read_cases(tmp_path / "out", (9, 9, 9))


def test_build_lists_all_header_problems_at_once_and_does_the_others(
    raw: Path, tmp_path: Path
) -> None:
    write_case(raw, "00004")
    shutil.rmtree(raw / "case_00000")
    whole = (raw / "case_00001" / "imaging.nii.gz").read_bytes()
    (raw / "case_00001" / "imaging.nii.gz").write_bytes(whole[: len(whole) // 2])
    save_nifti(raw / "case_00002" / "segmentation.nii.gz", np.zeros((4, 9, 7), np.uint8))
    (raw / "case_00003" / "imaging.nii.gz").write_text("no such page")
    split = CaseSplit((*SPLIT.train, "00004"), SPLIT.evaluation)
    with pytest.raises(ValueError, match="missing") as caught:
        build(raw, tmp_path / "out", split, MINIMUM, checksums={}, processes=1)
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    assert "imaging.nii.gz is missing in case_00000" in lines[0]
    assert "segmentation.nii.gz is missing in case_00000" in lines[1]
    assert "case_00001/imaging.nii.gz: cannot be read, it is truncated" in lines[2]
    assert "has shape (4, 9, 7), but imaging.nii.gz has (5, 9, 7)" in lines[3]
    assert "case_00003/imaging.nii.gz: cannot be read" in lines[4]
    files = {"case_00004_x.npy", "case_00004_y.npy"}
    assert visible(tmp_path / "out") == files | {"records.jsonl"}


def test_scan_many_missing_cases_is_one_line(tmp_path: Path) -> None:
    write_case(tmp_path, "00000")
    (tmp_path / "case_00000" / "imaging.nii.gz").unlink()
    _, lines = scan_cases(tmp_path, [f"{number:05d}" for number in range(50)])
    assert len(lines) == 2
    assert "imaging.nii.gz is missing in 50 cases (00000, 00001" in lines[0]
    assert lines[0].endswith("python -m starter_code.get_imaging")


def test_scan_several_gzip_members_are_no_truncation(raw: Path) -> None:
    import gzip

    path = raw / "case_00000" / "imaging.nii.gz"
    data = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(data[:100]) + gzip.compress(data[100:]))
    assert scan_case(path.parent).shape == SHAPE


@pytest.mark.parametrize(
    ("value", "text"), [(-1, "-1"), (255, "255"), (0.5, "0.5"), (np.nan, "nan"), (np.inf, "inf")]
)
def test_build_bad_labels_are_listed_and_good_cases_kept(
    raw: Path, tmp_path: Path, value: float, text: str
) -> None:
    for case in ("00001", "00002"):
        label = np.zeros(SHAPE, np.int16 if float(value).is_integer() else np.float32)
        label[0, 0, 0] = value
        save_nifti(raw / f"case_{case}" / "segmentation.nii.gz", label)
    with pytest.raises(ValueError, match=rf"has label {text}, allowed are whole num") as caught:
        make(raw, tmp_path / "out")
    assert len(str(caught.value).splitlines()) == 2
    files = {f"case_{case}_{part}.npy" for case in ("00000", "00003") for part in "xy"}
    assert visible(tmp_path / "out") == files | {"records.jsonl"}


def test_build_label_beyond_a_gap_is_named_and_its_case_redone(raw: Path, tmp_path: Path) -> None:
    path = raw / "case_00002" / "segmentation.nii.gz"
    whole = path.read_bytes()
    save_nifti(path, np.full(SHAPE, 7, np.uint8))
    with pytest.raises(ValueError, match="^case_00002: labels up to 7, though .* without gaps"):
        make(raw, tmp_path / "out")
    path.write_bytes(whole)
    assert {case.labels for case in make(raw, tmp_path / "out").values()} == {(0, 1, 2)}


def test_build_without_any_foreground_is_refused(raw: Path, tmp_path: Path) -> None:
    for path in raw.glob("*/segmentation.nii.gz"):
        save_nifti(path, np.zeros(SHAPE, np.uint8))
    with pytest.raises(ValueError, match="no case has a label other than 0"):
        make(raw, tmp_path / "out")


def test_build_full_disk_is_said_before_the_start(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(preparation.shutil, "disk_usage", lambda path: usage(10, 0, 10**4))
    with pytest.raises(ValueError, match="preparing needs 0.00 GB, the disk has 0.00 GB free"):
        make(raw, tmp_path / "out")
    assert visible(tmp_path / "out") == set()


def test_build_disk_that_fills_up_leaves_no_half_file(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    save = np.save

    def fill_up(file: object, array: np.ndarray, **options: object) -> None:
        written.append(1)
        save(file, array, **options)  # type: ignore[call-overload]
        if len(written) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(prepare.np, "save", fill_up)
    with pytest.raises(ValueError, match=r"cannot be written \(No space left on device\)"):
        make(raw, tmp_path / "out")
    monkeypatch.undo()
    assert not list((tmp_path / "out").glob(".*partial*"))
    assert len(read_records(tmp_path / "out")) == 2  # the folder's and one case's
    assert len(make(raw, tmp_path / "out")) == 4


def test_build_unwritable_folder_is_one_line(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="out: cannot be written") as caught:
        make(raw, tmp_path / "file" / "out")
    assert "--data.prepared_dir" in str(caught.value)


def test_build_wrong_label_checksum_is_an_error_and_redone(raw: Path, tmp_path: Path) -> None:
    good = make(raw, tmp_path / "good")
    sums = {f"case_{case}_x.npy": record.md5_x for case, record in good.items()}
    sums |= {f"case_{case}_y.npy": record.md5_y for case, record in good.items()}
    wrong = sums | {"case_00001_y.npy": "0" * 32}
    with pytest.raises(ValueError, match="case_00001_y.npy: MD5 .* differs from the reference's"):
        make(raw, tmp_path / "out", checksums=wrong)
    assert "00001" not in read_cases(tmp_path / "out", MINIMUM)
    assert make(raw, tmp_path / "out", checksums=sums) == good


def test_checksum_verdict_image_differences_warn(raw: Path, tmp_path: Path) -> None:
    done = make(raw, tmp_path / "out")
    sums = {f"case_{case}_x.npy": record.md5_x for case, record in done.items()}
    sums |= {f"case_{case}_y.npy": record.md5_y for case, record in done.items()}
    assert checksum_verdict(done, sums) == ["md5: 8 of 8 files equal the reference's list"]
    lines = checksum_verdict(done, sums | {"case_00002_x.npy": "0" * 32})
    assert lines[0].startswith("md5: 7 of 8")
    assert lines[1].startswith("warning: the image of case_00002 differs from the reference's")
    wrong = {f"case_{case}_x.npy": "0" * 32 for case in ("00000", "00001", "00002")}
    lines = checksum_verdict(done, sums | wrong)
    assert lines[1].startswith("warning: 3 image files differ")
    assert checksum_verdict(done, {}) == []


def test_checksum_case_changed_upstream_only_warns(tmp_path: Path) -> None:
    split = CaseSplit(("00043",), ())
    write_case(tmp_path / "raw", "00043")
    sums = {"case_00043_x.npy": "0" * 32, "case_00043_y.npy": "0" * 32}
    done = build(tmp_path / "raw", tmp_path / "out", split, MINIMUM, checksums=sums, processes=1)
    lines = checksum_verdict(done, sums)
    assert lines[0].startswith("md5: 0 of 2")
    assert "case_00043 differs for everyone" in lines[1]
    assert len(lines) == 2


def test_adopt_accepts_what_was_prepared_elsewhere(raw: Path, tmp_path: Path) -> None:
    done = make(raw, tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    assert adopt(tmp_path / "out", SPLIT, MINIMUM, checksums={}) == done
    assert read_cases(tmp_path / "out", MINIMUM) == done


def test_adopt_read_only_folder_keeps_its_manifest_in_the_cache(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINISHLINE_CACHE", str(tmp_path / "cache"))
    done = make(raw, tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    (tmp_path / "out" / "manifest.json").mkdir()  # makes the write fail, also for root
    adopt(tmp_path / "out", SPLIT, MINIMUM, checksums={})
    assert read_cases(tmp_path / "out", MINIMUM) == done


def test_adopt_lists_all_problems(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(raw, out)
    (out / "manifest.json").unlink()
    image_path(out, "00000").write_bytes(image_path(out, "00000").read_bytes()[:500])
    label_path(out, "00001").unlink()
    np.save(image_path(out, "00002"), np.full((1, 10, 9, 8), np.nan, np.float32))
    np.save(image_path(out, "00003"), np.zeros((1, 10, 9, 8)))
    with pytest.raises(ValueError, match="cannot be read") as caught:
        adopt(out, SPLIT, MINIMUM, checksums={})
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert "is missing" in lines[1]
    assert "has voxels that are not finite" in lines[2]
    assert "is float64 with shape (1, 10, 9, 8), expected float32" in lines[3]


def test_find_data_says_which_level_is_right(tmp_path: Path) -> None:
    case = write_case(tmp_path / "kits19" / "data", "00000")
    data = case.parent
    assert find_data(data) == data
    assert find_data(tmp_path / "kits19") == data
    with pytest.raises(FileNotFoundError, match=f"one level too high: pass {tmp_path}/kits19"):
        find_data(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"single case directory; pass its parent, {data}"):
        find_data(case)
    with pytest.raises(FileNotFoundError, match=r"is not a directory. KiTS19 \(about 30 GB"):
        find_data(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="contains no case_XXXXX directory"):
        find_data(tmp_path / "empty")


def test_changed_raw_case_is_found_and_redone_alone(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = make(raw, out)
    write_case(tmp_path / "other", "00007").joinpath("imaging.nii.gz").replace(
        raw / "case_00001" / "imaging.nii.gz"
    )
    (raw / "case_00002" / "imaging.nii.gz").touch()  # the same bytes
    lines = preparation.changed_units(out, raw)
    changed = raw / "case_00001" / "imaging.nii.gz"
    assert lines == {"00001": f"{changed} changed since it was prepared"}
    again = make(raw, out, redo=set(lines))
    assert {case for case in done if again[case] != done[case]} == {"00001"}
    assert preparation.changed_units(out, raw) == {}


def test_reading_names_and_records_imports_no_resampling_code() -> None:
    code = "import sys, datamodules.kits19.volumes, datamodules.kits19.checksums; "
    code += "print('datamodules.kits19.prepare' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"
