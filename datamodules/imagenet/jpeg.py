"""Image files as bytes: their headers, odd formats, damage. Imports no torch, as workers use it."""

import io
import warnings
from typing import Any

import numpy as np

from datamodules.common.jpeg_header import jpeg_header

REENCODE_QUALITY = 100
MOST_PIXELS = 178_956_970  # Pillow's limit: a few bytes can claim to be a far larger image
# Pillow's modes of 16 bits per pixel; 16-bit colour is opened with 8.
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")


class ImageKindError(ValueError):
    """A sound image of a kind that is not read; the message says what to do."""


def standard_jpeg(data: bytes) -> bytes:
    """Return the bytes of a JPEG in colour or grey; re-encode anything else as RGB of quality 100.

    ImageNet's training set has one PNG and 22 CMYK files named ``.JPEG``. Raises a ValueError if it
    is not a readable image or its pixels have no known range.

    Source:
        tensorflow/tpu, tools/datasets/imagenet_to_gcs.py.
    """
    header = jpeg_header(data)
    if header is not None and header.components in (1, 3):
        _check_size(header.width, header.height)
        return data
    buffer = io.BytesIO()
    rgb_image(data).save(buffer, "JPEG", quality=REENCODE_QUALITY)
    return buffer.getvalue()


def rgb_image(data: bytes) -> Any:
    """Decode a file to a Pillow image of 8-bit RGB.

    16-bit grey is scaled by 255 / 65535, where Pillow's own conversion would cut all but the
    darkest 256 levels off to white. Transparency is dropped, as in torchvision's ImageFolder.

    Args:
        data: The file's bytes, in any format that Pillow reads.

    Returns:
        A ``PIL.Image`` in mode RGB.

    Raises:
        ValueError: If it is no image, is damaged, has several pages, or pixels of floats or 32-bit
            integers, whose range is not known.
    """
    image = open_image(data)
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # a photograph and its preview
        raise ImageKindError(f"has {image.n_frames} pages: save each as a file of its own")
    try:
        image.load()
        if image.mode in _SIXTEEN_BITS or (image.mode == "I" and image.format in ("PNG", "PPM")):
            image = _eight_bits(image)
        if image.mode in ("I", "F"):
            kind = "float" if image.mode == "F" else "32-bit"
            raise ImageKindError(
                f"has {kind} pixels, whose range is not known: save it with 8 bits per channel"
            )
        return image.convert("RGB")
    except (OSError, SyntaxError) as error:
        raise ValueError(f"cannot be decoded: {error}") from error


def check_decodable(data: bytes) -> None:
    """Decode a whole image; raise a ValueError if it is damaged or truncated."""
    try:
        open_image(data).load()
    except (OSError, SyntaxError) as error:
        raise ValueError(f"cannot be decoded: {error}") from error


def open_image(data: bytes) -> Any:
    """Open a Pillow image of a bearable size; its pixels are not decoded yet."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # It warns from half of the limit on; above, it raises.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise ImageKindError(f"has more than {MOST_PIXELS:,} pixels: make it smaller") from error
    except (OSError, SyntaxError) as error:
        raise ValueError("is not a readable image") from error
    _check_size(image.width, image.height)
    return image


def _check_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise ImageKindError(
            f"has {width} x {height} pixels, more than {MOST_PIXELS:,}: make it smaller"
        )


def _eight_bits(image: Any) -> Any:
    """Scale 16-bit grey (levels 0..65535) to 8 bits (0..255)."""
    from PIL import Image

    levels_HW = np.asarray(image).astype(np.float64) / 257
    return Image.fromarray(np.rint(levels_HW).clip(0, 255).astype(np.uint8))
