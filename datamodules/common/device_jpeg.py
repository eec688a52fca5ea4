"""JPEG images decoded, cropped and resized on a GPU, by NVIDIA's nvImageCodec (extra ``[gpu]``).

Loader processes then only read and draw; a file travels as it is. Shapes: H W pixels of a file.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Decode = Callable[[Sequence[bytes]], Sequence[Tensor | None]]
"""Files -> pixels (H, W, 3) uint8 RGB on the device; None for a file that it cannot decode."""


class Encoded(NamedTuple):
    """An image that is not decoded yet, and what to do with it."""

    name: str
    data: bytes
    window: tuple[int, int, int, int]
    """Left, top, right and bottom in pixels of the file; right and bottom are outside."""
    size: tuple[int, int]
    """Height and width to resize the window to."""
    flip: bool


def finished(image: Encoded, pixels_HW3: Tensor) -> Tensor:
    """Crop, resize (bilinear with smoothing) and flip decoded pixels, on their device.

    Args:
        image: What to do.
        pixels_HW3: uint8 RGB of the whole file.

    Returns:
        image_3SS: uint8 RGB of the wanted size; the loader processes' within two levels of 255,
        where these do not decode at a fraction of the size.
    """
    left, top, right, bottom = image.window
    window = pixels_HW3[top:bottom, left:right].permute(2, 0, 1)[None].float()
    # In float: on GPUs the smoothing resize takes no integers.
    resized = F.interpolate(window, image.size, mode="bilinear", antialias=True)[0]
    resized = resized.round_().clamp_(0, 255).to(torch.uint8)
    return resized.flip(2) if image.flip else resized


def decode_batch(
    images: Sequence[Encoded], decode: Decode, otherwise: Callable[[bytes], Tensor]
) -> list[Tensor]:
    """Decode and finish a batch of images.

    Args:
        images: Files of one batch.
        decode: Decodes all of them on the device.
        otherwise: Decodes one that this cannot: pixels (3, H, W) uint8 RGB on the CPU.

    Returns:
        Images (3, S, S) on the device.

    Raises:
        ValueError: If neither can decode a file; the message begins with its name.
    """
    found = decode([image.data for image in images])
    device = next((pixels.device for pixels in found if pixels is not None), None)
    finished_images = []
    for image, pixels in zip(images, found, strict=True):
        if pixels is None:
            try:
                pixels = otherwise(image.data).permute(1, 2, 0).to(device)
            except ValueError as error:
                raise ValueError(f"{image.name} {error}") from error
        finished_images.append(finished(image, pixels))
    return finished_images


def nvimgcodec(device: torch.device) -> Decode:
    """Build the decoder of a CUDA device.

    Raises a ValueError of one line if the package or the device is missing.
    """
    if device.type != "cuda":
        raise ValueError(
            f"--data.decoder nvimgcodec decodes on a CUDA device, and this run uses the "
            f"{device.type}; leave the flag out"
        )
    library = _library()
    decoder = library.Decoder(device_id=device.index or 0)
    params = library.DecodeParams(
        color_spec=library.ColorSpec.SRGB, apply_exif_orientation=False, allow_any_depth=False
    )

    def decode(files: Sequence[bytes]) -> list[Tensor | None]:
        streams = [library.CodeStream(data) for data in files]
        stream = torch.cuda.current_stream(device).cuda_stream
        images = decoder.decode(streams, params=params, cuda_stream=stream)
        return [None if image is None else torch.from_dlpack(image) for image in images]

    return decode


def _library() -> Any:
    try:
        from nvidia import nvimgcodec as library
    except ImportError as error:
        raise ValueError(
            "--data.decoder nvimgcodec: the package is missing; run pip install 'finishline[gpu]'"
        ) from error
    return library
