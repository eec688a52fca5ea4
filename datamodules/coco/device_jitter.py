"""SSD's changes of colour on a whole batch, on the device that has decoded it.

The same as ``ssd_images.jitter``, a step for all images at once and rounded once, at the end, where
Pillow cuts fractions off after each change.
Letters: B images, S side.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from datamodules.coco.ssd_images import JITTER, Changes

GREY = (0.299, 0.587, 0.114)


def jitter_batch(image_B3SS: Tensor, changes: Sequence[Changes]) -> Tensor:
    """Change colours, each image's in its own order.

    Args:
        image_B3SS: uint8 RGB.
        changes: Of each image.

    Returns:
        image_B3SS: uint8 RGB; that of Pillow within rounding.
    """
    pixels_B3SS = image_B3SS.float() / 255
    for place in range(len(JITTER)):
        for name, change in CHANGES.items():
            chosen = [n for n, steps in enumerate(changes) if steps[place][0] == name]
            amounts = torch.tensor([changes[n][place][1] for n in chosen])
            if chosen:
                index = torch.tensor(chosen).to(pixels_B3SS.device)
                amount_B111 = amounts.to(pixels_B3SS.device)[:, None, None, None]
                pixels_B3SS[index] = change(pixels_B3SS[index], amount_B111)
    return (pixels_B3SS * 255).round_().to(torch.uint8)


def brightness(x_B3SS: Tensor, amount_B111: Tensor) -> Tensor:
    return (x_B3SS * amount_B111).clamp_(0, 1)


def contrast(x_B3SS: Tensor, amount_B111: Tensor) -> Tensor:
    mean_B111 = _grey(x_B3SS).mean((1, 2, 3), keepdim=True)
    return (mean_B111 + amount_B111 * (x_B3SS - mean_B111)).clamp_(0, 1)


def saturation(x_B3SS: Tensor, amount_B111: Tensor) -> Tensor:
    grey_B1SS = _grey(x_B3SS)
    return (grey_B1SS + amount_B111 * (x_B3SS - grey_B1SS)).clamp_(0, 1)


def hue(x_B3SS: Tensor, amount_B111: Tensor) -> Tensor:
    """Turn the hue by parts of the circle of colours, from -0.5 to 0.5."""
    high_B1SS = x_B3SS.amax(1, keepdim=True)
    chroma_B1SS = high_B1SS - x_B3SS.amin(1, keepdim=True)
    red, green, blue = x_B3SS.split(1, 1)
    of_red, of_green, of_blue = green - blue, blue - red, red - green
    sixths = torch.where(green == high_B1SS, of_green, of_blue)
    sixths = torch.where(red == high_B1SS, of_red, sixths)
    sixths = sixths / chroma_B1SS.clamp_min(1e-9)
    sixths = sixths + torch.where(red == high_B1SS, 0, torch.where(green == high_B1SS, 2, 4))
    offsets_3 = torch.tensor([5.0, 3.0, 1.0], device=x_B3SS.device)[:, None, None]
    k_B3SS = (offsets_3 + sixths + 6 * amount_B111) % 6
    return high_B1SS - chroma_B1SS * torch.minimum(k_B3SS, 4 - k_B3SS).clamp_(0, 1)


def _grey(x_B3SS: Tensor) -> Tensor:
    weight_3 = torch.tensor(GREY, device=x_B3SS.device)[:, None, None]
    return (x_B3SS * weight_3).sum(1, keepdim=True)


CHANGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
}
