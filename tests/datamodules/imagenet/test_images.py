"""Crop windows against the rule, decoding against Pillow, odd files against the reference."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image

from datamodules.common.jpeg_header import Header, jpeg_header
from datamodules.imagenet import images as imagenet_images
from datamodules.imagenet.images import (
    Box,
    decode,
    distorted_box,
    evaluation_image,
    training_image,
)
from datamodules.imagenet.jpeg import standard_jpeg


def photo(width: int, height: int, *, mode: str = "RGB", form: str = "JPEG") -> bytes:
    """Smooth random shapes, as a photograph has, not a noise that no resize agrees on."""
    rng = np.random.default_rng([width, height])
    small = Image.fromarray(rng.integers(0, 256, (height // 12 + 2, width // 12 + 2, 3), np.uint8))
    buffer = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).convert(mode).save(
        buffer, form, quality=92
    )
    return buffer.getvalue()


def cropped(data: bytes, header: Header, box: Box, side: int) -> np.ndarray:
    return imagenet_images.cropped(data, header, box, side).permute(1, 2, 0).numpy()


def difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.abs(one.astype(int) - other.astype(int))


# Crop windows.


@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (30, 200), (7, 5)])
def test_box_stays_inside_and_within_the_rule(width: int, height: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        box = distorted_box(rng, width, height)
        w, h = box.right - box.left, box.bottom - box.top
        assert 0 <= box.left <= box.right <= width
        assert 0 <= box.top <= box.bottom <= height
        if (w, h) != (width, height):
            assert 0.1 * width * height <= w * h <= width * height
            assert 0.75 - 0.5 / h <= w / h <= 1.33 + 0.5 / h
            assert box.left < max(1, width - w)
            assert box.top < max(1, height - h)


def test_box_height_is_uniform_between_the_bounds_of_the_areas() -> None:
    # Where neither the least coverage nor the image's edges cut, height given aspect is uniform:
    # u = (h - h_min) / (h_max - h_min) has a flat histogram above the 10 percent bound.
    rng = np.random.default_rng(1)
    width = height = 400
    heights = []
    for _ in range(6000):
        box = distorted_box(rng, width, height)
        w, h = box.right - box.left, box.bottom - box.top
        if 0.99 < w / h < 1.01:
            heights.append(h)
    low = round(math.sqrt(0.1) * 400)
    counts, _ = np.histogram(heights, bins=5, range=(low, 400))
    expected = len(heights) / 5
    assert len(heights) > 150
    assert np.all(np.abs(counts - expected) < 5 * math.sqrt(expected))


def test_wide_strip_falls_back_to_the_whole_image() -> None:
    # No window of an allowed aspect covers a tenth of an image 20 times as wide as high.
    assert distorted_box(np.random.default_rng(0), 2000, 100) == Box(0, 0, 2000, 100)


# Headers and odd files.


@pytest.mark.parametrize(("mode", "components"), [("RGB", 3), ("L", 1), ("CMYK", 4)])
def test_header_is_that_of_pillow(mode: str, components: int) -> None:
    assert jpeg_header(photo(123, 77, mode=mode)) == Header(123, 77, components)


def test_header_of_progressive_and_other_files() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, "JPEG", progressive=True, comment=b"x" * 300)
    assert jpeg_header(buffer.getvalue()) == Header(40, 30, 3)
    assert jpeg_header(photo(40, 30, form="PNG")) is None
    assert jpeg_header(b"\xff\xd8\xff") is None


def test_plain_jpegs_keep_their_bytes_and_others_become_rgb_of_quality_100() -> None:
    for mode in ("RGB", "L"):
        data = photo(60, 50, mode=mode)
        assert standard_jpeg(data) is data
    for data in (photo(60, 50, mode="CMYK"), photo(60, 50, form="PNG")):
        again = standard_jpeg(data)
        assert jpeg_header(again) == Header(60, 50, 3)
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        assert (
            difference(decode(again).permute(1, 2, 0).numpy(), pixels).mean() < 3
        )  # colour is halved, as in the reference
    with pytest.raises(ValueError, match="not a readable image"):
        standard_jpeg(b"no image at all")


def test_grey_files_come_out_with_three_equal_channels() -> None:
    image_SS3 = training_image(photo(90, 90, mode="L"), np.random.default_rng(0), 32)
    assert image_SS3.shape == (32, 32, 3)
    assert np.ptp(image_SS3, axis=2).max() == 0


def test_truncated_file_is_an_error() -> None:
    data = photo(300, 200)
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode(data[: len(data) // 2])
    with pytest.raises(ValueError, match="cannot be decoded"):
        cropped(data[: len(data) // 2], Header(300, 200, 3), Box(0, 0, 300, 200), 64)


# Pixels.


def pillow_crop(data: bytes, box: Box, side: int) -> np.ndarray:
    whole = Image.open(io.BytesIO(data)).convert("RGB")
    return np.asarray(whole.crop(box).resize((side, side), Image.Resampling.BILINEAR))


@pytest.mark.parametrize(
    "box", [Box(10, 20, 390, 300), Box(0, 0, 500, 375), Box(100, 100, 180, 180)]
)
def test_crop_equals_pillow_within_a_level(box: Box) -> None:
    data = photo(500, 375)
    found = cropped(data, Header(500, 375, 3), box, 224)
    assert difference(found, pillow_crop(data, box, 224)).max() <= 3
    assert difference(found, pillow_crop(data, box, 224)).mean() < 0.1


@pytest.mark.parametrize("box", [Box(0, 0, 1600, 1200), Box(301, 203, 901, 813)])
def test_crop_decoded_at_a_fraction_is_close_to_the_whole_decode(box: Box) -> None:
    data = photo(1600, 1200)
    wanted = pillow_crop(data, box, 224)
    found = difference(cropped(data, Header(1600, 1200, 3), box, 224), wanted)
    assert found.mean() < 2.0
    # It must be much closer than the same picture moved by one pixel.
    assert found.mean() < 0.5 * difference(np.roll(wanted, 1, axis=1), wanted).mean()


@pytest.mark.parametrize(("width", "height"), [(500, 375), (107, 300), (376, 400), (64, 64)])
def test_evaluation_crop_equals_pillow(width: int, height: int) -> None:
    data = photo(width, height)
    scale = np.float32(256) / np.float32(min(width, height))
    size = int(np.float32(width) * scale), int(np.float32(height) * scale)
    left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
    whole = Image.open(io.BytesIO(data)).convert("RGB").resize(size, Image.Resampling.BILINEAR)
    wanted = np.asarray(whole.crop((left, top, left + 224, top + 224)))
    found = evaluation_image(data, 224)
    assert found.shape == (224, 224, 3)
    assert difference(found, wanted).max() <= 3


def test_some_short_sides_are_cut_off_to_255_as_in_the_reference() -> None:
    scale = np.float32(256) / np.float32(107)
    assert int(np.float32(107) * scale) == 255


def test_training_image_depends_on_the_generator_only() -> None:
    data = photo(200, 150)
    one, same, other = (training_image(data, np.random.default_rng(seed), 64) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_half_of_the_images_are_flipped() -> None:
    data = photo(64, 64)
    flipped = 0
    for seed in range(200):
        image_SS3 = training_image(data, np.random.default_rng(seed), 64)
        rng = np.random.default_rng(seed)
        straight = cropped(data, Header(64, 64, 3), distorted_box(rng, 64, 64), 64)
        flipped += not np.array_equal(image_SS3, straight)
    assert 70 < flipped < 130
