"""JPEG images decoded, cropped and resized on a GPU, by NVIDIA's nvImageCodec (extra ``[gpu]``).

Loader processes then only read and draw; a file travels as it is. Shapes: H W pixels of a file.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.common.base import BenchmarkDataModule
from datamodules.common.jpeg_header import jpeg_header

Decoder = Literal["cpu", "nvimgcodec"]
ENCODED = "encoded"  # a batch's key for its images, as long as they are not decoded

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


class DecodesOnDevice(BenchmarkDataModule):
    """A data module whose loaders may leave training images encoded.

    Attributes:
        decoder: Where training images are decoded.
    """

    decoder: Decoder = "cpu"
    _decode: Decode | None = None

    def setup(self, stage: str) -> None:
        """Find out before the first batch whether this device can decode.

        Args:
            stage: Lightning's; unused.

        Raises:
            ValueError: If the package or a CUDA device is missing.
        """
        if self.decoder != "cpu" and self.trainer is not None:
            self._decode = nvimgcodec(self.trainer.strategy.root_device)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, index: int) -> Any:
        """Decode the images that loader processes have left as they are.

        Args:
            batch: From a loader, or a synthetic one.
            device: Where training runs.
            index: Of a loader; unused.

        Returns:
            The batch on the device, its images decoded.
        """
        if ENCODED in batch:
            self._decode = self._decode or nvimgcodec(device)
            images = decode_batch(batch[ENCODED], self._decode, self.decode_on_host)
            rest = {name: value for name, value in batch.items() if name != ENCODED}
            batch = self.with_images(rest, images)
        return super().transfer_batch_to_device(batch, device, index)

    @abstractmethod
    def decode_on_host(self, data: bytes) -> Tensor:
        """Decode a file that the device cannot: (3, H, W) uint8 RGB."""

    @abstractmethod
    def with_images(self, batch: dict[str, Any], images: list[Tensor]) -> dict[str, Any]:
        """Return the batch with its images, each (3, H, W) uint8 RGB on the device."""


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
        decode: Decodes JPEGs in colour or grey on the device.
        otherwise: Decodes one of another kind, or that this cannot: pixels (3, H, W) uint8 RGB on
            the CPU.

    Returns:
        Images (3, S, S) on the device.

    Raises:
        ValueError: If neither can decode a file; the message begins with its name.
    """
    plain = [number for number, image in enumerate(images) if _is_plain(image.data)]
    found: list[Tensor | None] = [None] * len(images)
    decoded = decode([images[number].data for number in plain]) if plain else ()
    for number, pixels in zip(plain, decoded, strict=True):
        found[number] = pixels
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


def _is_plain(data: bytes) -> bool:
    # Not CMYK, whose colours decoders see differently, and no PNG, which may have 16 bits.
    header = jpeg_header(data)
    return header is not None and header.components in (1, 3)


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
        streams = [_code_stream(library, data) for data in files]
        known = [each for each in streams if each is not None]
        stream = torch.cuda.current_stream(device).cuda_stream
        images = iter(decoder.decode(known, params=params, cuda_stream=stream) if known else ())
        decoded = [None if each is None else next(images) for each in streams]
        return [None if image is None else torch.from_dlpack(image) for image in decoded]

    return decode


def _code_stream(library: Any, data: bytes) -> Any:
    """Parse a file; None if the library cannot, as the host's decoder then has its turn."""
    try:
        return library.CodeStream(data)
    except RuntimeError:
        return None


def _library() -> Any:
    try:
        from nvidia import nvimgcodec as library
    except ImportError as error:
        raise ValueError(
            "--data.decoder nvimgcodec: the package is missing; run pip install 'finishline[gpu]'"
        ) from error
    return library
