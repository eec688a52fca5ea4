"""COCO images for Mask R-CNN: resized by their shorter side, flipped, padded in batches.

Letters: G ground-truth objects of an image, B batch. Boxes are inclusive corners in pixels: x2 is
x + width - 1. ``samples`` and ``index`` are positions of images in the annotations.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.coco.annotations import Annotations, Polygons
from datamodules.coco.image_check import open_rgb, read_encoded
from datamodules.coco.ssd_images import to_tensor
from datamodules.common.device_jpeg import ENCODED, Encoded
from datamodules.common.sampling import SampleKey, sample_rng

PADDED_TO = 32


class ImageSize:
    """Target size in pixels: shorter side, and maximum of the longer one before rounding."""

    def __init__(self, shorter: int, longest: int) -> None:
        self.shorter, self.longest = shorter, longest

    def of(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width after resizing; rounding may add a pixel or two."""
        low, high = min(height, width), max(height, width)
        size = self.shorter
        if high / low * size > self.longest:
            size = max(1, round(self.longest * low / high))
        long_side = int(size * high / low)
        return (size, long_side) if height < width else (long_side, size)


class TrainingImages(Dataset[dict[str, Any]]):
    """Training images with boxes, labels and polygons; flips depend on seed, pass and sample."""

    def __init__(
        self,
        folder: Path,
        annotations: Annotations,
        samples: np.ndarray,
        *,
        size: ImageSize,
        seed: int,
    ) -> None:
        self.folder, self.annotations, self.samples = folder, annotations, samples
        self.size, self.seed = size, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        """Return ``image`` (3, H, W) uint8, ``boxes`` (G, 4), ``labels`` (G,) and ``polygons``."""
        index, path, flip = self.draw(key)
        image = open_rgb(path)
        (height, width), targets = self.scaled(index, image.height, image.width, flip=flip)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        if flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return {"image": to_tensor(image), **targets}

    def draw(self, key: SampleKey) -> tuple[int, Path, bool]:
        """Return the image's position in the annotations, its file, and whether to flip it."""
        index = int(self.samples[key.index])
        # The key's epoch is the sampler's pass over the data.
        flip = sample_rng(self.seed, key.epoch, key.index, key.repeat).random() < 0.5
        return index, self.folder / self.annotations.file_name[index], flip

    def scaled(
        self, index: int, height: int, width: int, *, flip: bool
    ) -> tuple[tuple[int, int], dict[str, Any]]:
        """Return the new height and width of an image, and its targets in these pixels."""
        size = self.size.of(height, width)
        factor = np.array([size[1] / width, size[0] / height])
        box_G4, label_G, polygons = self.targets(index)
        box_G4 = box_G4 * np.tile(factor, 2)
        polygons = [[ring * factor for ring in rings] for rings in polygons]
        if flip:
            last = size[1] - 1
            x1, y1, x2, y2 = box_G4.T
            box_G4 = np.stack([last - x2, y1, last - x1, y2], 1)
            polygons = [
                [np.stack([last - ring[:, 0], ring[:, 1]], 1) for ring in rings]
                for rings in polygons
            ]
        return size, {
            "boxes": torch.from_numpy(box_G4.astype(np.float32)),
            "labels": torch.from_numpy(label_G),
            "polygons": polygons,
        }

    def targets(self, index: int) -> tuple[np.ndarray, np.ndarray, list[Polygons]]:
        """Return clipped box_G4 in pixels, label_G and polygons, no crowds or empty boxes."""
        own = self.annotations.of_image(index)
        x, y, w, h = self.annotations.box[own].T
        height, width = self.annotations.size[index]
        corners = np.stack([x, y, x + np.maximum(w - 1, 0), y + np.maximum(h - 1, 0)], 1)
        corners = np.clip(corners, 0, np.array([width, height] * 2) - 1)
        solid = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
        keep = np.flatnonzero(solid & ~self.annotations.crowd[own])
        polygons = self.annotations.polygons(index)
        return corners[keep], self.annotations.label[own][keep], [polygons[k] for k in keep]


class EncodedTrainingImages(TrainingImages):
    """The same draws, for a device that decodes: ``image`` is a file."""

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        index, path, flip = self.draw(key)
        data, height, width = read_encoded(path, self.annotations.size[index].tolist())
        size, targets = self.scaled(index, height, width, flip=flip)
        return {"image": Encoded(str(path), data, (0, 0, width, height), size, flip), **targets}


class EvaluationImages(Dataset[dict[str, Any]]):
    def __init__(
        self, folder: Path, annotations: Annotations, indices: Sequence[int], size: ImageSize
    ) -> None:
        self.folder, self.annotations = folder, annotations
        self.indices, self.size = indices, size

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Return ``image`` (3, H, W) uint8, ``index`` and ``original`` (2,) height, width."""
        index = self.indices[number]
        image = open_rgb(self.folder / self.annotations.file_name[index])
        return evaluation_sample(image, index, self.size)


def evaluation_sample(image: Image.Image, index: int, size: ImageSize) -> dict[str, Any]:
    """Return ``image`` (3, H, W) uint8, resized, ``index`` and ``original`` height and width."""
    height, width = size.of(image.height, image.width)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return {
        "image": to_tensor(resized),
        "index": index,
        "original": (image.height, image.width),
    }


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Pad images to the batch's largest, rounded up to 32.

    Returns ``image`` (B, 3, H, W) uint8 with 0 in the padding, ``size`` (B, 2) without padding; and
    lists of ``boxes``, ``labels`` and ``polygons``, or ``index`` (B,) and ``original`` (B, 2).
    Files in the place of images give ``encoded``, a list, in the place of ``image``.
    """
    images = [sample["image"] for sample in samples]
    if isinstance(images[0], Encoded):
        batch: dict[str, Any] = {ENCODED: images, "size": torch.tensor([i.size for i in images])}
    else:
        size = torch.tensor([image.shape[1:] for image in images])
        batch = {"image": padded(images), "size": size}
    if "boxes" in samples[0]:
        return batch | {k: [s[k] for s in samples] for k in ("boxes", "labels", "polygons")}
    return batch | {k: torch.tensor([s[k] for s in samples]) for k in ("index", "original")}


def padded(images: Sequence[Tensor]) -> Tensor:
    """Return image_B3HW with 0 right of and below each image; H and W are multiples of 32."""
    height, width = (
        -(-max(image.shape[axis] for image in images) // PADDED_TO) * PADDED_TO for axis in (1, 2)
    )
    image_B3HW = images[0].new_zeros(len(images), 3, height, width)
    for rows, image in zip(image_B3HW, images, strict=True):
        rows[:, : image.shape[1], : image.shape[2]] = image
    return image_B3HW


def batches_of_one_shape(
    annotations: Annotations, indices: Sequence[int], size: ImageSize, batch_size: int
) -> list[list[int]]:
    """Group positions in ``indices`` so that no image of a batch is padded for another one.

    Features near an image's edge depend on the padding next to it. Batches come in the order of
    their first image.
    """
    batches: list[list[int]] = []
    open_batch: dict[tuple[int, ...], list[int]] = {}
    for number, index in enumerate(indices):
        shape = tuple(-(-side // PADDED_TO) for side in size.of(*annotations.size[index].tolist()))
        if len(open_batch.get(shape, ())) in (0, batch_size):
            open_batch[shape] = []
            batches.append(open_batch[shape])
        open_batch[shape].append(number)
    return batches


def synthetic(batch_size: int, size: ImageSize, objects: int = 7) -> dict[str, Any]:
    """Return a random training batch of 4:3 landscape images."""
    height, width = size.of(480, 640)
    samples = []
    for _ in range(batch_size):
        corner = torch.rand(objects, 2) * 0.5
        side = torch.rand(objects, 2) * 0.4 + 0.05
        box = torch.cat([corner, corner + side], 1) * torch.tensor([width, height] * 2)
        x1, y1, x2, y2 = box.T
        outline = torch.stack([x1, y1, x2, y1, x2, y2, x1, y2], 1).view(objects, 4, 2)
        samples.append(
            {
                "image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8),
                "boxes": box,
                "labels": torch.randint(1, 3, (objects,)),
                "polygons": [[ring] for ring in outline.numpy()],
            }
        )
    return collate(samples)


def landscape_or_portrait(annotations: Annotations, samples: np.ndarray) -> np.ndarray:
    """Return for each sample whether it is at least as high as wide."""
    height, width = annotations.size[samples].T
    return height >= width


def usable(annotations: Annotations) -> np.ndarray:
    """Return the images with at least one box, crowd or not, whose sides exceed one pixel."""
    good = (annotations.box[:, 2:] > 1).all(1)
    owner = np.repeat(np.arange(len(annotations)), annotations.count())
    return np.unique(owner[good])
