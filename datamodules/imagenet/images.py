"""From a JPEG's bytes to a training or evaluation image: crop window, decode, resize.

Shapes: S side of the square output, H W pixels of the original. Pixels are uint8 RGB in 0..255.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from datamodules.common.jpeg_header import Header, jpeg_header
from datamodules.imagenet.jpeg import open_image

# The reference's crop: aspect and area of a window, and how much of the image it must cover.
ASPECT, AREA, LEAST_COVERED, ATTEMPTS = (0.75, 1.33), (0.05, 1.0), 0.1, 100
EVALUATION_RESIZE = 256 / 224  # short side before the centre crop, in units of the crop


class Box(NamedTuple):
    """A window in whole pixels; left and top are inside, right and bottom outside."""

    left: int
    top: int
    right: int
    bottom: int


def distorted_box(rng: np.random.Generator, width: int, height: int) -> Box:
    """Draw the window of a training crop; the whole image after 100 failed attempts.

    Aspect is uniform, then the window's height is uniform between the bounds that the areas give;
    windows below a tenth of the image are drawn again.

    Source:
        tensorflow, core/kernels/image/sample_distorted_bounding_box_op.cc, as called by
        mlcommons/training, image_classification/tensorflow2/imagenet_preprocessing.py (v1.0).
    """
    least, most = (share * width * height for share in AREA)
    for _ in range(ATTEMPTS):
        aspect_draw, height_draw, top_draw, left_draw = rng.random(4)
        aspect = ASPECT[0] + (ASPECT[1] - ASPECT[0]) * aspect_draw
        size = _window(aspect, height_draw, width, height, least, most)
        if size is None or size[0] * size[1] < LEAST_COVERED * width * height:
            continue
        w, h = size
        # The last possible offset is never drawn, as in the reference.
        left, top = int(left_draw * (width - w)), int(top_draw * (height - h))
        return Box(left, top, left + w, top + h)
    return Box(0, 0, width, height)


def _window(
    aspect: float, draw: float, width: int, height: int, least: float, most: float
) -> tuple[int, int] | None:
    """Return a window's width and height, or None if rounding puts it out of bounds."""
    h = round(math.sqrt(least / aspect))
    highest = min(round(math.sqrt(most / aspect)), height)
    while highest > 0 and round(highest * aspect) > width:
        highest -= 1
    h = highest if h >= highest else h + int(draw * (highest - h + 1))
    if round(h * aspect) * h < least:
        h += 1
    if round(h * aspect) * h > most:
        h -= 1
    w = round(h * aspect)
    fits = 0 < w <= width and 0 < h <= height and least <= w * h <= most
    return (w, h) if fits else None


def draw_window(data: bytes, rng: np.random.Generator) -> tuple[Header, Box, bool]:
    """Draw a training crop: the file's header, the window, and whether to flip it."""
    header = jpeg_header(data)
    if header is None:
        raise ValueError("is not a JPEG file")
    box = distorted_box(rng, header.width, header.height)
    return header, box, rng.random() < 0.5


def training_image(data: bytes, rng: np.random.Generator, side: int) -> np.ndarray:
    """Return image_SS3, uint8: a random window, resized and flipped half of the time."""
    header, box, flip = draw_window(data, rng)
    image_3SS = cropped(data, header, box, side)
    # torch flips ten times faster than a copy through numpy's negative strides.
    return (image_3SS.flip(2) if flip else image_3SS).permute(1, 2, 0).numpy()


def cropped(data: bytes, header: Header, box: Box, side: int) -> torch.Tensor:
    """Resize a window of an image to a square: image_3SS, uint8, channels innermost in memory.

    Where the window has at least twice the pixels wanted on both axes, the file is decoded at a
    half, a quarter or an eighth of its size, which skips most of the work and smooths about as the
    resizing would.
    """
    shrink = min(box.right - box.left, box.bottom - box.top) // side
    if shrink >= 2:
        return _shrunk(data, header, box, side, shrink)
    image_3HW = decode(data)
    window_3HW = image_3HW[:, box.top : box.bottom, box.left : box.right]
    return _resize(window_3HW, side, side)


def evaluation_image(data: bytes, side: int) -> np.ndarray:
    """Return image_SS3, uint8: the centre, the short side resized to 256/224 of the crop.

    Source:
        mlcommons/training, image_classification/tensorflow2/imagenet_preprocessing.py (v1.0).
        Differs: Pillow's smoothing bilinear filter, as in accepted submissions, where TF's old
        resize skips pixels.
    """
    image_3HW = decode(data)
    height, width = image_3HW.shape[1:]
    # In single precision and cut off, as the reference: some short sides become 255.
    scale = np.float32(int(side * EVALUATION_RESIZE)) / np.float32(min(height, width))
    new_h, new_w = int(np.float32(height) * scale), int(np.float32(width) * scale)
    top, left = (new_h - side) // 2, (new_w - side) // 2
    resized_3HW = _resize(image_3HW, new_h, new_w)
    return resized_3HW[:, top : top + side, left : left + side].permute(1, 2, 0).numpy()


def decode(data: bytes) -> torch.Tensor:
    """Decode a JPEG to image_3HW, uint8 RGB, channels innermost; ValueError if it is damaged."""
    from torchvision.io import ImageReadMode, decode_jpeg

    bytes_N = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    try:
        return decode_jpeg(bytes_N, mode=ImageReadMode.RGB)
    except RuntimeError as error:
        raise ValueError(f"cannot be decoded: {str(error).splitlines()[0]}") from error


def _resize(image_3HW: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize, bilinear with smoothing; equals Pillow's BILINEAR within one level of 255."""
    # A window of an image is neither layout; copied, it takes the fast path and keeps its layout.
    image_13HW = image_3HW[None].contiguous(memory_format=torch.channels_last)
    return F.interpolate(image_13HW, (height, width), mode="bilinear", antialias=True)[0]


def _shrunk(data: bytes, header: Header, box: Box, side: int, shrink: int) -> torch.Tensor:
    """Decode at a fraction of the size, then resize the window."""
    from PIL.Image import Resampling

    image = open_image(data)
    image.draft("RGB", (header.width // shrink, header.height // shrink))
    x, y = image.width / header.width, image.height / header.height
    window = (box.left * x, box.top * y, box.right * x, box.bottom * y)
    try:
        rgb = image.convert("RGB")
    except (OSError, SyntaxError) as error:
        raise ValueError(f"cannot be decoded: {error}") from error
    resized = rgb.resize((side, side), Resampling.BILINEAR, box=window)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)
