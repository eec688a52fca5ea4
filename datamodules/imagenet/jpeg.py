"""Image files as bytes: their headers, odd formats, damage. Imports no torch, as workers use it."""

import io
from typing import Any, NamedTuple

REENCODE_QUALITY = 100
# Marker segments without a length, and the frame headers that hold the size.
_BARE = {0x01, *range(0xD0, 0xD9)}
_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


class Header(NamedTuple):
    """Size and colour components of a JPEG file; 3 components are colour, 1 grey, 4 CMYK."""

    width: int
    height: int
    components: int


def jpeg_header(data: bytes) -> Header | None:
    """Read a JPEG's header, some ten times faster than opening the image; None for other files."""
    if data[:2] != b"\xff\xd8":
        return None
    offset, end = 2, len(data) - 9
    while offset < end and data[offset] == 0xFF:
        marker = data[offset + 1]
        if marker in _FRAME:
            height = int.from_bytes(data[offset + 5 : offset + 7], "big")
            width = int.from_bytes(data[offset + 7 : offset + 9], "big")
            return Header(width, height, data[offset + 9])
        if marker == 0xFF:  # padding
            offset += 1
        elif marker in _BARE:
            offset += 2
        else:
            offset += 2 + int.from_bytes(data[offset + 2 : offset + 4], "big")
    return None


def standard_jpeg(data: bytes) -> bytes:
    """Return the bytes of a JPEG in colour or grey; re-encode anything else as RGB of quality 100.

    ImageNet's training set has one PNG and 22 CMYK files named ``.JPEG``. Raises a ValueError if it
    is not a readable image.

    Source:
        tensorflow/tpu, tools/datasets/imagenet_to_gcs.py.
    """
    header = jpeg_header(data)
    if header is not None and header.components in (1, 3):
        return data
    buffer = io.BytesIO()
    open_image(data).convert("RGB").save(buffer, "JPEG", quality=REENCODE_QUALITY)
    return buffer.getvalue()


def check_decodable(data: bytes) -> None:
    """Decode a whole image; raise a ValueError if it is damaged or truncated."""
    try:
        open_image(data).load()
    except (OSError, SyntaxError) as error:
        raise ValueError(f"cannot be decoded: {error}") from error


def open_image(data: bytes) -> Any:
    """Open a Pillow image; its pixels are not decoded yet."""
    from PIL import Image

    try:
        return Image.open(io.BytesIO(data))
    except (OSError, SyntaxError) as error:
        raise ValueError("is not a readable image") from error
