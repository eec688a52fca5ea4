"""Finding, checking and sharding ImageNet's files, and the lines that bad input gets."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from datamodules.common.jpeg_header import Header, jpeg_header
from datamodules.imagenet import ImageNetDataModule
from datamodules.imagenet import prepare as builder
from datamodules.imagenet.files import Counts, scan
from tests.datamodules.imagenet.tiny_imagenet import COUNTS, SETTINGS, flatten_val, write_tiny

SYNSETS = tuple(f"n{number:08d}" for number in range(1, 11))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def root(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "data")


def data(root: Path, **options: object) -> ImageNetDataModule:
    return ImageNetDataModule(root=root, **{"prepare_processes": 1, **SETTINGS, **options})  # type: ignore[arg-type]


def problem(root: Path, counts: Counts = COUNTS) -> str:
    with pytest.raises(ValueError, match="\n|.") as error:
        scan(root, counts)
    return str(error.value)


def test_scan_numbers_classes_in_sorted_order(root: Path) -> None:
    files = scan(root, COUNTS)
    assert files.synsets == SYNSETS
    assert len(files.train) == COUNTS.train
    assert files.train[13] == ("train/n00000002/n00000002_0.JPEG", 1)
    assert files.val[1] == ("val/n00000002/ILSVRC2012_val_00000002.JPEG", 1)


def test_leavings_of_other_programs_are_no_images(root: Path) -> None:
    """A Mac's ``._`` twins and a notebook's hidden folder came along with a copy."""
    before = scan(root, COUNTS)
    first = next((root / "train").rglob("*.JPEG"))
    (first.parent / f"._{first.name}").write_bytes(b"x")
    (root / "val" / "._n1.JPEG").write_bytes(b"x")
    hidden = root / "train" / ".ipynb_checkpoints"
    hidden.mkdir()
    (hidden / first.name).write_bytes(first.read_bytes())
    (first.parent / "Thumbs.db").write_bytes(b"x")
    assert scan(root, COUNTS) == before


def test_flat_val_with_labels_gives_the_same_evaluation_order(root: Path) -> None:
    folders = scan(root, COUNTS).val
    flat = scan(flatten_val(root), COUNTS).val
    assert [c for _, c in flat] == [c for _, c in folders]
    assert [Path(name).name for name, _ in flat] == [Path(name).name for name, _ in folders]


def test_missing_class_folder_is_named_in_one_line(root: Path) -> None:
    shutil.rmtree(root / "train" / SYNSETS[4])
    first, second = problem(root).splitlines()
    assert "lacks 1 class directories (n00000005)" in first
    assert f"lacks 13 of {COUNTS.train} images" in second


def test_root_with_train_but_no_val_says_where_val_comes_from(root: Path) -> None:
    shutil.rmtree(root / "val")
    (line,) = problem(root).splitlines()
    assert "val contains no images" in line
    assert "ILSVRC2012_img_val.tar, 6.7 GB" in line


def test_empty_root_lists_both_parts_and_no_root_is_said(tmp_path: Path) -> None:
    assert len(problem(tmp_path).splitlines()) == 2
    with pytest.raises(FileNotFoundError, match="nowhere is not a directory"):
        scan(tmp_path / "nowhere", COUNTS)


def test_labels_file_that_is_short_or_missing_is_said(root: Path) -> None:
    flatten_val(root)
    labels = root / "imagenet_2012_validation_synset_labels.txt"
    labels.write_text("".join(labels.read_text().splitlines(keepends=True)[:-7]))
    (line,) = problem(root).splitlines()
    assert "has 23 labels for 30 images" in line
    labels.unlink()
    assert "val is flat, so it needs" in problem(root)


def test_wrong_counts_are_said(root: Path) -> None:
    (root / "train" / SYNSETS[0] / "n00000001_3.JPEG").unlink()
    assert f"lacks 1 of {COUNTS.train} images" in problem(root)
    assert "10 class directories, expected 1000" in problem(root, Counts(1000, 1_281_167, 50_000))


def test_doctor_lists_problems_without_opening_or_writing(root: Path) -> None:
    assert data(root).problems() == []
    shutil.rmtree(root / "val")
    assert len(data(root).problems()) == 1
    assert not (root / "finishline-imagenet").exists()


def test_prepare_writes_shards_and_encodes_odd_files_anew(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data(root).prepare()
    text = capsys.readouterr().out
    assert "2 images are not plain JPEGs" in text
    assert "130 training and 30 evaluation images of 10 classes" in text
    prepared = root / "finishline-imagenet"
    source = builder.open_source(root, prepared, "train", COUNTS)
    for number in (2 * 13 + 5, 7 * 13 + 11):  # the CMYK and the PNG image
        content, label = source.read(number)
        header = jpeg_header(content)
        assert isinstance(header, Header)
        assert header.components == 3
        assert label == number // 13
    plain, _ = source.read(0)
    assert plain == (root / "train/n00000001/n00000001_0.JPEG").read_bytes()


def test_prepare_again_redoes_a_damaged_shard_only(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = root / "finishline-imagenet"
    builder.write_all_shards(root, prepared, COUNTS, processes=1, samples_per_shard=50)
    stamps = {p.name: p.stat().st_mtime_ns for p in prepared.glob("*.tar")}
    bad = prepared / "train-00001.tar"
    good = bad.read_bytes()
    bad.write_bytes(good[:9000] + b"?" + good[9001:])
    assert not builder.drop_damaged(root, prepared, COUNTS, processes=1, show_progress=False)
    assert "train-00001.tar has changed" in capsys.readouterr().out
    builder.write_all_shards(root, prepared, COUNTS, processes=1, samples_per_shard=50)
    assert bad.read_bytes() == good
    changed = [p.name for p in prepared.glob("*.tar") if p.stat().st_mtime_ns != stamps[p.name]]
    assert changed == ["train-00001.tar"]
    assert builder.drop_damaged(root, prepared, COUNTS, processes=1, show_progress=False)


def test_prepare_writes_a_damaged_manifest_of_shards_again(root: Path) -> None:
    data(root).prepare()
    path = root / "finishline-imagenet" / "train.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    with pytest.raises(ValueError, match="train.json is missing or unreadable"):
        data(root).prepare_data()
    data(root).prepare()
    assert path.read_bytes() == whole


def test_damaged_shard_is_kept_where_the_images_are_gone(root: Path) -> None:
    data(root).prepare()
    bad = root / "finishline-imagenet" / "train-00000.tar"
    flipped = bytearray(bad.read_bytes())
    flipped[9000] ^= 1
    bad.write_bytes(flipped)
    (root / "train").rename(root / "away")
    with pytest.raises(ValueError, match="train contains no class directories"):
        data(root).prepare()
    assert bad.read_bytes() == flipped  # its other images are good, and there are no others
    (root / "away").rename(root / "train")
    data(root).prepare()
    assert bad.read_bytes() != flipped


def corrected_labels(root: Path) -> list[int]:
    """Evaluation labels after those of the first two images of a flat val were exchanged."""
    place = root / "imagenet_2012_validation_synset_labels.txt"
    lines = place.read_text().splitlines()
    assert lines[0] != lines[1]
    lines[:2] = lines[1::-1]
    place.write_text("\n".join(lines))
    return [SYNSETS.index(line) for line in lines]


def test_corrected_labels_file_counts_though_the_files_were_listed_before(root: Path) -> None:
    data(flatten_val(root)).prepare_data()
    wanted = corrected_labels(root)
    again = data(root)
    again.prepare_data()
    assert next(iter(again.val_dataloader()))["label"].tolist() == wanted


def test_corrected_labels_file_makes_prepare_write_anew(root: Path) -> None:
    data(flatten_val(root)).prepare()
    wanted = corrected_labels(root)
    data(root).prepare()
    assert next(iter(data(root).val_dataloader()))["label"].tolist() == wanted


def test_sorting_a_listed_flat_val_into_folders_is_noticed(root: Path, tmp_path: Path) -> None:
    folders = shutil.copytree(root / "val", tmp_path / "folders")
    data(flatten_val(root)).prepare_data()
    shutil.rmtree(root / "val")
    folders.rename(root / "val")
    again = data(root)
    again.prepare_data()
    assert len(next(iter(again.val_dataloader()))["label"]) == 30


def test_truncated_and_foreign_files_are_all_named_by_prepare(root: Path) -> None:
    cut = root / "train" / SYNSETS[0] / "n00000001_2.JPEG"
    cut.write_bytes(cut.read_bytes()[:900])
    foreign = root / "val" / SYNSETS[1] / "ILSVRC2012_val_00000012.JPEG"
    shutil.copy(Path(__file__), foreign)
    with pytest.raises(ValueError, match="cannot be decoded") as error:
        data(root).prepare()
    first, second = str(error.value).splitlines()
    assert "n00000001_2.JPEG cannot be decoded" in first
    assert first.endswith("; extract it from its archive again")
    assert "ILSVRC2012_val_00000012.JPEG is not a readable image" in second
    assert second.endswith("; extract it from its archive again")


def test_image_that_cannot_be_read_is_named_without_an_error_number(root: Path) -> None:
    path = root / "train" / "n00000001" / "n00000001_3.JPEG"
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match=r"_3.JPEG cannot be read \(Is a directory\); extract it"):
        data(root).prepare()


def test_half_written_and_foreign_shards_are_refused(root: Path) -> None:
    data(root).prepare()
    (root / "finishline-imagenet" / "val.json").unlink()
    with pytest.raises(ValueError, match="val shards are not finished"):
        data(root).prepare_data()
    data(root).prepare()
    assert data(root).problems() == []
    with pytest.raises(ValueError, match="another data set's shards"):
        data(root, num_train=131).prepare_data()


def test_folder_of_shards_alone_is_a_root(root: Path, tmp_path: Path) -> None:
    data(root).prepare()
    alone = tmp_path / "alone"
    (root / "finishline-imagenet").rename(alone)
    other = data(alone)
    other.prepare_data()
    assert other.problems() == []
    assert len(next(iter(other.val_dataloader()))["label"]) == 30


def test_prepare_data_opens_no_image(root: Path) -> None:
    opened: list[str] = []
    watching = [True]

    def watch(event: str, args: tuple[object, ...]) -> None:
        if watching and event == "open":
            opened.append(str(args[0]))

    sys.addaudithook(watch)
    data(root).prepare_data()  # lists the files
    data(root).prepare_data()
    watching.clear()
    assert opened
    assert not [name for name in opened if name.endswith((".JPEG", ".tar"))]


def test_read_only_root_is_said(root: Path) -> None:
    (root / "finishline-imagenet").write_text("in the way")
    for command in (data(root).prepare_data, data(root).prepare):
        with pytest.raises(ValueError, match="cannot be written .*--data.prepared_dir"):
            command()
    data(root, prepared_dir=root / "elsewhere").prepare_data()


def test_changed_image_is_said_and_its_shard_written_again(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data(root).prepare()
    changed, other = (root / f"train/n00000001/n00000001_{n}.JPEG" for n in (0, 1))
    changed.write_bytes(other.read_bytes())
    capsys.readouterr()
    data(root).prepare()
    text = capsys.readouterr().out
    assert f"{changed} changed since it was prepared; preparing it again" in text
    source = builder.open_source(root, root / "finishline-imagenet", "train", COUNTS)
    assert source.read(0) == (other.read_bytes(), 0)
    capsys.readouterr()
    data(root).prepare()
    assert "has changed" not in capsys.readouterr().out


def test_killed_before_the_changed_shards_were_begun_still_writes_them_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data(root).prepare()
    changed, other = (root / f"train/n00000001/n00000001_{n}.JPEG" for n in (0, 1))
    changed.write_bytes(other.read_bytes())
    held_out, next_one = (root / f"val/n00000001/ILSVRC2012_val_000000{n}1.JPEG" for n in (0, 1))
    held_out.write_bytes(next_one.read_bytes())

    def killed(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(builder, "write_shards", killed)
        with pytest.raises(KeyboardInterrupt):
            data(root).prepare()
    data(root).prepare()
    source = builder.open_source(root, root / "finishline-imagenet", "train", COUNTS)
    assert source.read(0) == (other.read_bytes(), 0)


def test_folder_of_version_0_1_is_read_and_one_lost_shard_written_again(root: Path) -> None:
    """It had no records and no manifest of the whole folder."""
    prepared = root / "finishline-imagenet"
    data(root).prepare()
    for name in ("records.jsonl", "manifest.json", "prepare.log"):
        (prepared / name).unlink()
    stamp = (prepared / "train-00000.tar").stat().st_mtime_ns
    data(root).prepare_data()
    data(root).prepare()
    (prepared / "val-00000.tar").unlink()
    data(root).prepare()
    assert data(root).problems() == []
    assert (prepared / "train-00000.tar").stat().st_mtime_ns == stamp
