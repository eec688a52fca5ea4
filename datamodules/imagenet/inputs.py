"""Images from outside the data set, and the classes' names."""

from collections.abc import Sequence

import torch
from torch import Tensor

from datamodules.common.inputs import input_file, without_remedy
from datamodules.imagenet.images import evaluation_image
from datamodules.imagenet.jpeg import standard_jpeg

WHAT = "an image (JPEG, PNG ...)"
IMAGENET_ENDS = "n01440764", "n15075141"  # first and last of ImageNet's 1000 synsets


def read_image(source: str, side: int) -> Tensor:
    """Read an image and crop it as for an evaluation.

    Args:
        source: Image file; other formats than colour or grey JPEG are encoded anew, as in shards.
        side: Pixels of a side of the crop.

    Returns:
        image_13SS, uint8 RGB.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is not a readable image.
    """
    data = input_file(source, WHAT).read_bytes()
    try:
        pixels = evaluation_image(standard_jpeg(data), side)
    except (ValueError, OSError, SyntaxError) as error:
        raise ValueError(f"{source}: {without_remedy(ValueError(str(error)))}") from error
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]


def words_of(synsets: Sequence[str]) -> list[str]:
    """Return English names for ImageNet's 1000 synsets, and any others as they are."""
    if len(synsets) != 1000 or (synsets[0], synsets[-1]) != IMAGENET_ENDS:
        return list(synsets)
    from torchvision.models import ResNet50_Weights

    return list(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def name_of(number: int, names: Sequence[str]) -> str:
    """Return a class's name; a network may know more classes than the data has."""
    return names[number] if number < len(names) else f"class {number}"
