"""Random crop and augmentation of CT volumes: drawn on the host, applied on any device.

``draw_sample`` makes every random choice of one training sample from one generator; ``apply_draw``
carries it out with torch on the volume's own device. Host and accelerator therefore crop and flip
alike, and a sample depends on its key only.

Letters: D H W voxels of a volume (1.6 x 1.2 x 1.2 mm), K boxes, three axes each with [start, end).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

BrightnessForm = Literal["reference", "plain"]
Boxes = Mapping[int, np.ndarray]

FLIP_PROBABILITY = 1 / 3
BRIGHTNESS_PROBABILITY = NOISE_PROBABILITY = 0.1
BRIGHTNESS_RANGE = (0.7, 1.3)
MAX_NOISE_SIGMA = 0.1


class SampleDraw(NamedTuple):
    """Every random choice of one training sample."""

    start: tuple[int, int, int]  # first voxel of the crop (D, H, W)
    flips: tuple[int, ...]  # spatial axes (0 = D) to reverse
    brightness: float | None  # factor on the image
    noise_sigma: float | None  # in units of the normalised image
    noise_seed: int


def component_boxes(label_DHW: np.ndarray, *, keep: int = 2) -> dict[int, np.ndarray]:
    """Find the bounding boxes of each class's ``keep`` largest connected components.

    Returns, for each class present, boxes_K32: int64 [start, end) per axis, 1 <= K <= keep.
    Components touch by faces and are ranked by the volume of their BOX, not by their voxels: a
    quirk of the reference.

    Source:
        mlcommons/training @ 9947bdf2, image_segmentation/pytorch/data_loading/pytorch_loader.py.
        Differs: the reference labels the whole volume again for every sample.
    """
    from scipy import ndimage

    # Label inside the box of all foreground only: the same components in less time.
    around = ndimage.find_objects((label_DHW > 0).view(np.uint8))
    if not around:
        return {}
    region = np.ascontiguousarray(label_DHW[around[0]])
    offset_31 = np.array([[axis.start] for axis in around[0]])
    boxes: dict[int, np.ndarray] = {}
    for class_id in np.flatnonzero(np.bincount(region.ravel())):
        if class_id == 0:
            continue
        components, _ = ndimage.label(region == class_id)
        boxes_N32 = np.array(
            [[(a.start, a.stop) for a in box] for box in ndimage.find_objects(components)]
        )
        volume_N = (boxes_N32[..., 1] - boxes_N32[..., 0]).prod(axis=1)
        largest = np.argsort(-volume_N, kind="stable")[:keep]
        boxes[int(class_id)] = boxes_N32[largest] + offset_31
    return boxes


def uniform_start(rng: np.random.Generator, shape: Sequence[int], crop: Sequence[int]) -> list[int]:
    """Draw a crop's first voxel, uniform over the volume."""
    # Both the reference's bound and numpy's exclude the end: the last position is never used.
    return [
        0 if size == side else int(rng.integers(0, size - side))
        for size, side in zip(shape, crop, strict=True)
    ]


def box_start(
    rng: np.random.Generator, box_32: np.ndarray, shape: Sequence[int], crop: Sequence[int]
) -> list[int]:
    """Draw a crop's first voxel so that the crop contains the box, or lies within a larger box.

    Source:
        mlcommons/training @ 9947bdf2, image_segmentation/pytorch/data_loading/pytorch_loader.py.
    """
    starts = []
    for (first, last), size, side in zip(box_32.tolist(), shape, crop, strict=True):
        slack = side - (last - first)
        below = int(rng.integers(0, abs(slack))) if slack else 0
        above = abs(slack) - below
        sign = -1 if slack < 0 else 1
        low, high = max(0, first - sign * below), min(size, last + sign * above)
        # Cut at the volume's edge: the crop is made whole on its other side.
        missing = side - (high - low)
        starts.append(low if missing == 0 or low == 0 else low - missing)
    return starts


def crop_start(
    rng: np.random.Generator,
    shape: Sequence[int],
    boxes: Callable[[], Boxes],
    crop: Sequence[int],
    oversampling: float,
) -> tuple[int, int, int]:
    """Draw the random balanced crop's first voxel: on the foreground or anywhere.

    The class is uniform over those present in the volume, so the tumour takes half of the biased
    crops. A volume without foreground gets the uniform crop (the reference would raise).
    """
    by_class = boxes() if rng.random() < oversampling else {}
    if by_class:
        candidates_K32 = by_class[int(rng.choice(sorted(by_class)))]
        box_32 = candidates_K32[int(rng.integers(len(candidates_K32)))]
        depth, height, width = box_start(rng, box_32, shape, crop)
    else:
        depth, height, width = uniform_start(rng, shape, crop)
    return depth, height, width


def draw_sample(
    rng: np.random.Generator,
    shape: Sequence[int],
    boxes: Callable[[], Boxes],
    crop: Sequence[int],
    *,
    oversampling: float,
    brightness: BrightnessForm,
) -> SampleDraw:
    """Draw crop, flips, brightness and noise of one training sample.

    Args:
        rng: The sample's own generator.
        shape: Volume's size (D, H, W), each at least the crop's.
        boxes: Gives the result of ``component_boxes``; called only for a crop on the foreground.
        crop: Crop's size (D, H, W).
        oversampling: Probability of a crop on the foreground, in [0, 1].
        brightness: ``reference`` multiplies by 1 + U(0.7, 1.3), that is by 1.7 to 2.3, which is
            what the reference does; ``plain`` by U(0.7, 1.3), as NVIDIA's accepted submissions did.

    Returns:
        The draw.

    Source:
        mlcommons/training @ 9947bdf2, image_segmentation/pytorch/data_loading/pytorch_loader.py.
    """
    start = crop_start(rng, shape, boxes, crop, oversampling)
    flips = tuple(axis for axis in range(3) if rng.random() < FLIP_PROBABILITY)
    factor = sigma = None
    if rng.random() < BRIGHTNESS_PROBABILITY:
        factor = float(rng.uniform(*BRIGHTNESS_RANGE)) + (1.0 if brightness == "reference" else 0.0)
    if rng.random() < NOISE_PROBABILITY:
        sigma = float(rng.uniform(0.0, MAX_NOISE_SIGMA))
    return SampleDraw(start, flips, factor, sigma, int(rng.integers(2**63)))


def apply_draw(
    image_1DHW: Tensor, label_1DHW: Tensor, draw: SampleDraw, crop: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Crop and augment one volume on its own device; return new tensors, float32 and uint8.

    Noise has the same distribution on every device; its values are the device's generator's.
    """
    where = (slice(None), *(slice(s, s + n) for s, n in zip(draw.start, crop, strict=True)))
    axes = [axis + 1 for axis in draw.flips]
    # flip copies even with no axis to flip, so what follows may work in place.
    image = image_1DHW[where].flip(axes).float()
    label = label_1DHW[where].flip(axes)
    if draw.brightness is not None:
        image.mul_(draw.brightness)
    if draw.noise_sigma is not None:
        generator = torch.Generator(image.device).manual_seed(draw.noise_seed)
        noise = torch.empty_like(image).normal_(0.0, draw.noise_sigma, generator=generator)
        image.add_(noise)
    return image, label
