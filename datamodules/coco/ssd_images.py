"""COCO images for SSD: cropped by overlap, flipped, resized, jittered.

Letters: N boxes of an image, M boxes after padding, B batch. Boxes are corners in fractions of the
image, during augmentation and in batches. ``samples`` are positions of images in the annotations.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.coco.annotations import Annotations
from datamodules.coco.image_check import open_rgb, read_encoded
from datamodules.common.device_jpeg import ENCODED, Encoded
from datamodules.common.sampling import SampleKey, sample_rng

# Minimum overlap of the crop with every box; None keeps the image, -inf accepts any crop.
CROP_MODES = (None, 0.1, 0.3, 0.5, 0.7, 0.9, -np.inf)
LEAST_SIDE = 0.3
JITTER = {"brightness": 0.125, "contrast": 0.5, "saturation": 0.5, "hue": 0.05}
SIDE = 300
PADDED_TO = 16  # boxes per image: few distinct shapes, so that compiled steps are reused

Window = tuple[float, float, float, float]
"""Left, top, right and bottom in fractions of the image."""
Changes = tuple[tuple[str, float], ...]
"""Name in JITTER and amount, in the order in which they are made."""


class Batch(TypedDict):
    """Images of one step; training adds ``boxes`` and ``labels``, evaluation the others."""

    image: Tensor
    boxes: Tensor
    labels: Tensor
    index: Tensor
    size: Tensor


class Draw(NamedTuple):
    """Augmentation of a training image, and its boxes and labels after that."""

    number: int
    path: Path
    window: Window | None
    flip: bool
    changes: Changes
    targets: dict[str, Tensor]


class TrainingImages(Dataset[dict[str, Any]]):
    """Augmented training images; each draw is a function of seed, epoch and sample."""

    def __init__(
        self,
        folder: Path,
        annotations: Annotations,
        samples: np.ndarray,
        *,
        seed: int,
        crop_attempts: int,
    ) -> None:
        self.folder, self.annotations, self.samples = folder, annotations, samples
        self.seed, self.crop_attempts = seed, crop_attempts

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        """Return ``image`` (3, 300, 300) uint8, ``boxes`` (N, 4) float32, ``labels`` (N,) int64."""
        drawn = self.draw(key)
        image = open_rgb(drawn.path)
        pixels = resize(image, drawn.window, SIDE)
        if drawn.flip:
            pixels = pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return {"image": to_tensor(jitter(drawn.changes, pixels)), **drawn.targets}

    def draw(self, key: SampleKey) -> "Draw":
        """Draw what happens to an image; its boxes follow."""
        rng = sample_rng(self.seed, key.epoch, key.index, key.repeat)
        index = int(self.samples[key.index])
        window, box_N4, label_N = crop(rng, *self.targets(index), attempts=self.crop_attempts)
        flip = rng.random() < 0.5
        if flip:
            box_N4 = np.stack([1 - box_N4[:, 2], box_N4[:, 1], 1 - box_N4[:, 0], box_N4[:, 3]], 1)
        targets = {
            "boxes": torch.from_numpy(box_N4.astype(np.float32)),
            "labels": torch.from_numpy(label_N),
        }
        path = self.folder / self.annotations.file_name[index]
        return Draw(index, path, window, flip, draw_changes(rng), targets)

    def targets(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return an image's box_N4 and label_N, crowds included as in the reference.

        Boxes without width or height are dropped: they overlap nothing, which would make the loss
        of the first default box infinite.
        """
        own = self.annotations.of_image(index)
        box, label = self.annotations.box[own], self.annotations.label[own]
        solid = (box[:, 2] > 0) & (box[:, 3] > 0)
        height, width = self.annotations.size[index]
        corners = np.concatenate([box[solid, :2], box[solid, :2] + box[solid, 2:]], 1)
        return corners / np.array([width, height, width, height]), label[solid]


class EncodedTrainingImages(TrainingImages):
    """The same draws for a device that decodes: ``image`` is a file, ``changes`` are to be made."""

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        drawn = self.draw(key)
        annotated = self.annotations.size[drawn.number].tolist()
        data, height, width = read_encoded(drawn.path, annotated)
        window = pixel_window(drawn.window or (0.0, 0.0, 1.0, 1.0), width, height)
        image = Encoded(str(drawn.path), data, window, (SIDE, SIDE), drawn.flip)
        return {"image": image, "changes": drawn.changes, **drawn.targets}


class EvaluationImages(Dataset[dict[str, Tensor]]):
    def __init__(self, folder: Path, annotations: Annotations, indices: Sequence[int]) -> None:
        self.folder, self.annotations, self.indices = folder, annotations, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """Return ``image`` (3, 300, 300) uint8, ``index`` () and the original ``size`` (2,)."""
        index = self.indices[number]
        image = open_rgb(self.folder / self.annotations.file_name[index])
        return {
            "image": to_tensor(image.resize((300, 300), Image.Resampling.BILINEAR)),
            "index": torch.tensor(index),
            "size": torch.from_numpy(self.annotations.size[index]),
        }


def crop(
    rng: np.random.Generator, box_N4: np.ndarray, label_N: np.ndarray, *, attempts: int
) -> tuple[Window | None, np.ndarray, np.ndarray]:
    """Draw SSD's random crop: a window that overlaps EVERY box by more than the drawn bound.

    After ``attempts`` windows another bound is drawn. Returns the window (x1, y1, x2, y2) in
    fractions or None for the whole image; the boxes whose centre is inside, clipped, in fractions
    of the window; and their classes.

    Source: mlcommons/training (v1.0), single_stage_detector/ssd/utils.py, SSDCropping.
    """
    while True:
        bound = CROP_MODES[int(rng.integers(len(CROP_MODES)))]
        if bound is None:
            return None, box_N4, label_N
        for _ in range(attempts):
            width, height = rng.uniform(LEAST_SIDE, 1.0, 2)
            if not 0.5 <= width / height <= 2:
                continue
            x, y = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
            window = (x, y, x + width, y + height)
            if (_overlap(window, box_N4) <= bound).any():
                continue
            centre = (box_N4[:, :2] + box_N4[:, 2:]) / 2
            inside = ((centre > window[:2]) & (centre < window[2:])).all(1)
            if inside.any():
                corner, side = np.array([x, y, x, y]), np.array([width, height, width, height])
                clipped = np.clip(box_N4[inside], [x, y, x, y], [window[2], window[3]] * 2)
                return window, (clipped - corner) / side, label_N[inside]


def _overlap(window: Window, box_N4: np.ndarray) -> np.ndarray:
    """Return the intersection over union of a window with every box."""
    low = np.maximum(box_N4[:, :2], window[:2])
    high = np.minimum(box_N4[:, 2:], window[2:])
    shared = np.prod(np.clip(high - low, 0, None), 1)
    area = (window[2] - window[0]) * (window[3] - window[1])
    return shared / (area + np.prod(box_N4[:, 2:] - box_N4[:, :2], 1) - shared)


def resize(image: Image.Image, window: Window | None, size: int) -> Image.Image:
    """Crop a window (None for all) and stretch it to a square."""
    if window is not None:
        # Not resize(box=...): its filter reads pixels next to the window.
        image = image.crop(pixel_window(window, *image.size))
    return image.resize((size, size), Image.Resampling.BILINEAR)


def pixel_window(window: Window, width: int, height: int) -> tuple[int, int, int, int]:
    """Return a window in whole pixels, at least one."""
    x1, y1 = int(window[0] * width), int(window[1] * height)
    # A window of a tiny image can round to nothing; keep at least one pixel.
    x2, y2 = max(int(window[2] * width), x1 + 1), max(int(window[3] * height), y1 + 1)
    return x1, y1, min(x2, width), min(y2, height)


def draw_changes(rng: np.random.Generator) -> Changes:
    """Draw amounts of brightness, contrast, saturation and hue, in random order."""
    drawn = []
    for name, spread in JITTER.items():
        centre = 0.0 if name == "hue" else 1.0
        drawn.append((name, float(rng.uniform(centre - spread, centre + spread))))
    return tuple(drawn[number] for number in rng.permutation(len(drawn)))


def jitter(changes: Changes, image: Image.Image) -> Image.Image:
    """Change an image's colours step by step."""
    from torchvision.transforms import functional as change

    for name, amount in changes:
        image = getattr(change, f"adjust_{name}")(image, amount)
    return image


def to_tensor(image: Image.Image) -> Tensor:
    """Return an RGB image as (3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def collate(samples: list[dict[str, Any]]) -> Batch:
    """Stack a training batch; boxes (B, M, 4) are padded with label 0, M is a multiple of 16.

    Files in the place of images give ``encoded`` and ``changes``, lists, in the place of ``image``.
    """
    most = max(1, *(len(sample["labels"]) for sample in samples))
    most = -(-most // PADDED_TO) * PADDED_TO
    boxes = torch.zeros(len(samples), most, 4)
    labels = torch.zeros(len(samples), most, dtype=torch.int64)
    for number, sample in enumerate(samples):
        count = len(sample["labels"])
        boxes[number, :count], labels[number, :count] = sample["boxes"], sample["labels"]
    images: dict[str, Any] = {ENCODED: [sample["image"] for sample in samples]}
    if "changes" in samples[0]:
        images["changes"] = [sample["changes"] for sample in samples]
    else:
        images = {"image": torch.stack(images[ENCODED])}
    return {**images, "boxes": boxes, "labels": labels}  # type: ignore[typeddict-item]
