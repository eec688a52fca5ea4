"""Images of other kinds: read rightly, or refused in one line that names the file."""

import os

import numpy as np
import pytest
from PIL import Image

from datamodules.coco.image_check import check_images, fault_lines, open_rgb

HEIGHT, WIDTH = 20, 30


@pytest.fixture
def pixels():
    steps = np.linspace(0, 255, HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH)
    return np.stack([steps, steps[::-1], steps[:, ::-1]], -1)


def lines_of(path, size=(HEIGHT, WIDTH), **options):
    return fault_lines(path.parent, check_images(path.parent, [(path.name, size)], **options))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_other_pixels_are_read_rightly(mode, pixels, tmp_path):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image = Image.fromarray(pixels).convert(mode)
    image.save(path)
    assert lines_of(path) == []
    assert open_rgb(path).mode == "RGB"
    np.testing.assert_array_equal(np.asarray(open_rgb(path)), np.asarray(image.convert("RGB")))


def test_sixteen_bits_keep_their_brightness(pixels, tmp_path):
    grey = pixels[..., 0]
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "a.png")
    assert lines_of(tmp_path / "a.png") == []
    read = np.asarray(open_rgb(tmp_path / "a.png"))
    np.testing.assert_array_equal(read, np.stack([grey] * 3, -1))


@pytest.mark.parametrize(("kind", "words"), [(np.float32, "floating-point"), (np.int32, "32-bit")])
def test_pixels_without_a_range_are_refused(kind, words, tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(np.full((HEIGHT, WIDTH), 1000, kind)).save(path)
    (line,) = lines_of(path)
    assert line.startswith(f"{path} cannot be decoded ({words} pixels have no fixed range")
    with pytest.raises(ValueError, match=words):
        open_rgb(path)


def turned(path, pixels, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_an_orientation_that_the_annotated_size_settles_is_ignored(ending, pixels, tmp_path):
    path = tmp_path / f"a.{ending}"
    turned(path, pixels, 6)
    assert lines_of(path) == []
    assert open_rgb(path).size == (WIDTH, HEIGHT)
    (line,) = lines_of(path, (WIDTH, HEIGHT))
    assert "20 x 30" in line
    assert line.endswith("its EXIF orientation turns it: save it upright")


@pytest.mark.parametrize(("orientation", "side"), [(2, WIDTH), (3, WIDTH), (6, HEIGHT)])
def test_an_orientation_that_nothing_settles_is_refused_but_for_coco(
    orientation, side, pixels, tmp_path
):
    path = tmp_path / "a.jpg"
    turned(path, pixels[:, :side], orientation)
    (line,) = lines_of(path, (HEIGHT, side))
    assert line.startswith(f"{path} has EXIF orientation {orientation}")
    assert lines_of(path, (HEIGHT, side), strict=False) == []


def test_a_broken_orientation_is_none(pixels, tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(pixels).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\x7f\1")
    assert lines_of(path) == []


def test_a_decompression_bomb_is_refused(pixels, tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH // 3)
    (line,) = lines_of(path)
    assert "decompression bomb" in line
    with pytest.raises(ValueError, match=f"{path.name} cannot be decoded"):
        open_rgb(path)


def test_a_file_that_cannot_be_read_says_why(tmp_path):
    os.mkfifo(tmp_path / "c.jpg")
    assert "c.jpg cannot be decoded (it is a pipe)" in lines_of(tmp_path / "c.jpg")[0]
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "b.jpg").mkdir()
    assert "a.jpg cannot be read (No such file" in lines_of(tmp_path / "a.jpg")[0]
    assert "b.jpg cannot be read (Is a directory)" in lines_of(tmp_path / "b.jpg")[0]
