"""Own images: any class names and counts, odd files, and how they differ from ImageNet."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.imagenet import ImageNetDataModule
from datamodules.imagenet.contents import IMAGENET, Contents, differences
from datamodules.imagenet.images import decode
from datamodules.imagenet.jpeg import rgb_image, standard_jpeg

CLASSES = {"tabby cat": (3, 1), "dog": (5, 2), "Übung": (4, 0)}  # training and evaluation images


def picture(seed: int, size: tuple[int, int] = (20, 16)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, counts in CLASSES.items():
        for split, count in zip(("train", "val"), counts, strict=True):
            for number in range(count):
                folder = tmp_path / "own" / split / name
                folder.mkdir(parents=True, exist_ok=True)
                picture(number + 50 * len(name) + 500 * (split == "val")).save(
                    folder / f"{number}.{'png' if number % 2 else 'jpg'}"
                )
    return tmp_path / "own"


def data(root: Path, **options: object) -> ImageNetDataModule:
    settings = {"image_size": 16, "batch_size": 4, "evaluation_batch_size": 2, **options}
    return ImageNetDataModule(root=root, prepare_processes=1, **settings)  # type: ignore[arg-type]


def lines(root: Path) -> list[str]:
    """Problems, which ``prepare_data`` tells in the same words."""
    problems = data(root).problems()
    with pytest.raises(ValueError, match=".") as error:
        data(root).prepare_data()
    assert str(error.value).splitlines() == problems
    return problems


def test_classes_and_counts_are_the_datas_own_from_files_and_shards(root: Path) -> None:
    before = data(root)
    assert before.problems() == []
    assert before.net_facts() == {"num_classes": 3, "image_size": 16}
    assert not list(root.glob("finishline*"))  # asked without writing
    for prepare in (data(root).prepare_data, data(root).prepare):
        prepare()
        module = data(root)
        assert module.mllog_facts() == {
            "train_samples": 12,
            "eval_samples": 3,
            "samples_per_epoch": 12,
        }
        labels = torch.cat([batch["label"] for batch in module.val_dataloader()])
        assert labels.tolist() == [0, 1, 0]  # dog 0, tabby cat 0, dog 1
        assert module.differences() == before.differences()
        assert module.differences() == [
            "3 classes instead of 1,000",
            "12 training images instead of 1,281,167",
            "3 evaluation images instead of 50,000",
        ]


def test_prepare_says_that_the_data_is_own(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data(root).prepare()
    assert "Own data is ready in" in capsys.readouterr().out


def test_image_added_after_the_listing_is_used(root: Path) -> None:
    data(root).prepare_data()
    picture(9).save(root / "train" / "dog" / "new.jpg")
    again = data(root)
    again.prepare_data()
    assert again.counts.train == 13


def test_image_added_after_prepare_is_told_by_doctor_and_prepared(root: Path) -> None:
    data(root).prepare()
    assert data(root).problems() == []
    picture(9).save(root / "train" / "dog" / "new.jpg")
    (line,) = data(root).problems()
    assert "images of train were added, removed, renamed or relabelled since the shards" in line
    assert line.endswith("run the recipe's prepare command")
    data(root).prepare()
    assert data(root).problems() == []
    assert data(root).counts.train == 13


def test_evaluation_image_that_is_a_training_image_is_refused(root: Path) -> None:
    (root / "val/dog/0.jpg").write_bytes((root / "train/dog/2.jpg").read_bytes())
    with pytest.raises(ValueError, match="1 evaluation images are training images") as error:
        data(root).prepare()
    assert str(error.value).startswith("val/dog/0.jpg is train/")
    with pytest.raises(ValueError, match="val shards are not finished"):
        data(root).prepare_data()


def test_image_changed_after_prepare_is_told_by_doctor(root: Path) -> None:
    data(root).prepare()
    path = root / "train" / "dog" / "0.jpg"
    picture(9).save(path, quality=30)
    (line,) = data(root).problems()
    assert line == f"{path} changed since it was prepared; run the recipe's prepare command"


def test_flat_val_takes_labels_with_spaces(root: Path) -> None:
    for path in sorted((root / "val").glob("*/*")):
        path.rename(root / "val" / f"{path.parent.name[0]}{path.name}")
    (root / "synset_labels.txt").write_text("dog\ndog\ntabby cat\n")
    module = data(root)
    module.prepare_data()
    assert next(iter(module.val_dataloader()))["label"].tolist() == [0, 0]


def test_class_of_val_that_train_lacks_is_named(root: Path) -> None:
    (root / "train" / "dog").rename(root / "train" / "hound")
    (line,) = lines(root)
    assert "lacks 1 class directories (dog) that val has: add them, or remove them in val" in line


def test_class_directory_without_images_is_named(root: Path) -> None:
    """Images one level too deep, and a class of HEIC files."""
    deep = root / "train" / "cow" / "2024"
    deep.mkdir(parents=True)
    picture(0).save(deep / "0.jpg")
    (line,) = lines(root)
    assert "train has 1 directories without images (cow): put images" in line


def test_archive_of_a_class_that_is_not_unpacked_is_named(root: Path) -> None:
    (root / "train" / "dog.tar").write_bytes(b"x")  # unpacked, and kept
    assert data(root).problems() == []
    (root / "train" / "cow.tar").write_bytes(b"x")
    (line,) = lines(root)
    assert "train has 1 archives that are not unpacked (cow.tar): unpack each into" in line


def test_single_class_directory_is_refused(root: Path) -> None:
    (root / "train").rename(root / "images")
    (root / "train").mkdir()
    (root / "images" / "dog").rename(root / "train" / "images")
    (root / "val" / "tabby cat" / "0.jpg").unlink()
    (root / "val" / "tabby cat").rmdir()
    (root / "val" / "dog").rename(root / "val" / "images")
    (line,) = lines(root)
    assert "one class directory (images), training needs at least two" in line


def test_entries_that_are_not_images_are_noted(root: Path) -> None:
    (root / "train" / "dog" / "5.heic").write_bytes(b"x")
    (root / "train" / "dog" / "Thumbs.db").write_bytes(b"x")
    (line,) = data(root).notes()
    assert "dog has 1 entries that are not images (5.heic); they are not used" in line


def test_a_pipe_with_an_images_name_is_noted_and_not_waited_for(root: Path) -> None:
    os.mkfifo(root / "train" / "dog" / "9.png")
    (line,) = data(root).notes()
    assert "dog has 1 entries that are not images (9.png); they are not used" in line
    data(root).prepare()


def test_link_to_a_missing_directory_is_an_error_and_other_links_are_followed(root: Path) -> None:
    (root / "train" / "dog").rename(root / "elsewhere")
    (root / "train" / "dog").symlink_to(root / "elsewhere")
    assert data(root).counts.train == 12
    (root / "elsewhere").rename(root / "moved")
    (line,) = lines(root)
    assert line == f"{root / 'train' / 'dog'}: cannot be read (No such file or directory)"


def test_flags_that_state_counts_are_checked(root: Path) -> None:
    (line,) = data(root, num_classes=4).problems()
    assert "train has 3 class directories, expected 4" in line
    assert data(root, num_classes=3, num_train=12, num_val=3).problems() == []


# Differences from the benchmark's data.


def of_imagenets_size(**changes: object) -> Contents:
    """Contents with ImageNet's totals, but names of its own."""
    fields = {"synsets": [f"n{n:08d}" for n in range(1000)], **vars(IMAGENET), **changes}
    return Contents(fields["synsets"], IMAGENET.train, IMAGENET.val, fields.get("per_class", {}))  # type: ignore[arg-type]


def test_other_class_names_are_a_difference() -> None:
    assert differences(of_imagenets_size()) == [
        "class directories with other names than ImageNet's synsets"
    ]


def test_imagenets_own_names_and_counts_are_no_difference() -> None:
    timm = pytest.importorskip("timm.data")
    synsets = timm.ImageNetInfo("imagenet-1k").label_names()
    sizes = [1282] * 167 + [1281] * 833
    own = of_imagenets_size(synsets=synsets, per_class={"train": sizes, "val": [50] * 1000})
    assert differences(own) == []
    odd = of_imagenets_size(synsets=synsets, per_class={"val": [49, 51, *[50] * 998]})
    assert differences(odd) == [
        "2 classes of val have other numbers of images than ImageNet's 50 (n01440764 has 49)"
    ]


# Odd files.


def saved(image: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled_not_cut_off(form: str) -> None:
    levels_HW = np.linspace(0, 65535, 48 * 40).reshape(48, 40).astype(np.uint16)
    pixels_HW3 = np.asarray(rgb_image(saved(Image.fromarray(levels_HW), form)))
    assert pixels_HW3.shape == (48, 40, 3)
    assert np.abs(pixels_HW3 - levels_HW[..., None] / 257).max() <= 0.5
    assert decode(standard_jpeg(saved(Image.fromarray(levels_HW), form))).float().mean() < 130


def test_sixteen_bit_colour_keeps_its_high_bytes() -> None:
    import struct
    import zlib

    row = struct.pack(">6H", 0, 0x8000, 0xFFFF, 0x1234, 0x00FF, 0xFF00)

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    png += chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    levels = np.asarray(rgb_image(png))[0].ravel().astype(int)
    assert np.abs(levels - np.array([0, 128, 255, 18, 1, 254])).max() <= 1


@pytest.mark.parametrize(
    ("image", "form", "reason"),
    [
        (Image.fromarray(np.ones((9, 9), np.float32)), "TIFF", "has float pixels"),
        (Image.fromarray(np.ones((9, 9), np.int32)), "TIFF", "has 32-bit pixels"),
    ],
)
def test_pixels_of_unknown_range_are_refused(
    root: Path, image: Image.Image, form: str, reason: str
) -> None:
    path = root / "train" / "dog" / "odd.tif"
    path.write_bytes(saved(image, form))
    with pytest.raises(ValueError, match=reason) as error:
        data(root).prepare()
    text = f"{path} {reason}, whose range is not known: save it with 8 bits per channel"
    assert str(error.value) == text
    module = data(root, prepared_dir=root / "plain")
    module.prepare_data()
    with pytest.raises(ValueError, match=reason):
        list(module.train_dataloader())


def test_file_of_several_pages_is_refused() -> None:
    buffer = io.BytesIO()
    picture(0).save(buffer, "TIFF", save_all=True, append_images=[picture(1)])
    with pytest.raises(ValueError, match="has 2 pages: save each as a file of its own"):
        standard_jpeg(buffer.getvalue())


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "CMYK", "1"])
def test_palettes_transparency_and_inks_become_the_colours_that_pillow_shows(mode: str) -> None:
    image = picture(3).convert(mode)
    pixels = np.asarray(rgb_image(saved(image, "TIFF")))
    assert np.array_equal(pixels, np.asarray(image.convert("RGB")))


def test_image_of_astronomic_size_is_refused_before_it_is_decoded() -> None:
    jpeg = bytearray(saved(picture(0), "JPEG"))
    place = jpeg.index(b"\xff\xc0") + 5
    jpeg[place : place + 4] = b"\xff\xff\xff\xff"
    with pytest.raises(ValueError, match="has 65535 x 65535 pixels, more than 178,956,970"):
        standard_jpeg(bytes(jpeg))
    bitmap = bytearray(saved(picture(0), "BMP"))
    bitmap[18:26] = (60000).to_bytes(4, "little") * 2
    with pytest.raises(ValueError, match="more than 178,956,970 pixels: make it smaller"):
        standard_jpeg(bytes(bitmap))


def test_unreadable_directory_is_an_error(root: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root can read everything")
    (root / "train" / "dog").chmod(0)
    (line,) = lines(root)
    assert "dog: cannot be read (Permission denied)" in line
