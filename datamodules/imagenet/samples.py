"""Data sets over ImageNet's images.

Shapes: B batch, S side of the square images. Batches hold ``image`` (B, 3, S, S) uint8 RGB with
channels innermost in memory, ``label`` (B,) int64 and ``index`` (B,) int64.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.common.device_jpeg import ENCODED, Encoded
from datamodules.common.sampling import SampleKey, sample_rng
from datamodules.imagenet.images import draw_window, evaluation_image, training_image
from datamodules.imagenet.sources import ImageSource

_ERROR = "BadImageError: "


class BadImageError(ValueError):
    """An image that cannot be used; of a loader worker's traceback, the last line is kept."""

    def __init__(self, text: str) -> None:
        super().__init__(text.rstrip().rpartition(_ERROR)[2])


class Batch(TypedDict):
    """Images, class numbers and sample numbers."""

    image: Tensor
    label: Tensor
    index: Tensor


class TrainingImages(Dataset[Batch]):
    """Augmented images; a batch of keys gives a batch."""

    def __init__(self, source: ImageSource, side: int, seed: int) -> None:
        self.source, self.side, self.seed = source, side, seed

    def __getitem__(self, key: SampleKey) -> Batch:
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[SampleKey]) -> Batch:
        """Augment a batch of images; the draws depend on seed and key only."""

        def make(position: int, data: bytes) -> np.ndarray:
            return training_image(data, sample_rng(self.seed, *_draw(keys[position])), self.side)

        return _batch(self.source, [key.index for key in keys], self.side, make)


class EncodedTrainingImages(TrainingImages):
    """The same draws, for a device that decodes: ``encoded`` takes the place of ``image``."""

    def __getitems__(self, keys: Sequence[SampleKey]) -> Batch:
        """Draw the windows of a batch of images, which stay as they are in their files."""

        def encode(position: int, data: bytes) -> Encoded:
            rng = sample_rng(self.seed, *_draw(keys[position]))
            _, box, flip = draw_window(data, rng)
            name = self.source.name(keys[position].index)
            left, top, right, bottom = box
            return Encoded(name, data, (left, top, right, bottom), (self.side, self.side), flip)

        numbers = [key.index for key in keys]
        encoded, labels = _read(self.source, numbers, encode)
        batch: Any = {
            ENCODED: encoded,
            "label": torch.tensor(labels),
            "index": torch.tensor(numbers),
        }
        return batch


class EvaluationImages(Dataset[Batch]):
    """Centre crops of the images in ``numbers``, in that order."""

    def __init__(self, source: ImageSource, side: int, numbers: Sequence[int]) -> None:
        self.source, self.side, self.numbers = source, side, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, position: int) -> Batch:
        return self.__getitems__([position])

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """Crop a batch of images, given by their positions in ``numbers``."""
        numbers = [self.numbers[position] for position in positions]

        def make(position: int, data: bytes) -> np.ndarray:
            return evaluation_image(data, self.side)

        return _batch(self.source, numbers, self.side, make)


def as_is(batch: Batch) -> Batch:
    """Collate for data sets that make whole batches: return the batch."""
    return batch


def _draw(key: SampleKey) -> tuple[int, int, int]:
    return key.epoch, key.index, key.repeat


def _batch(
    source: ImageSource,
    numbers: Sequence[int],
    side: int,
    make: Callable[[int, bytes], np.ndarray],
) -> Batch:
    """Read images straight into their rows of the batch."""
    image_BSS3 = np.empty((len(numbers), side, side, 3), dtype=np.uint8)

    def fill(position: int, data: bytes) -> None:
        image_BSS3[position] = make(position, data)

    _, labels = _read(source, numbers, fill)
    return {
        "image": torch.from_numpy(image_BSS3).permute(0, 3, 1, 2),
        "label": torch.tensor(labels),
        "index": torch.tensor(numbers),
    }


def _read(
    source: ImageSource, numbers: Sequence[int], use: Callable[[int, bytes], Any]
) -> tuple[list[Any], list[int]]:
    """Read images and use each; return what came of them, and their labels."""
    results, labels = [], []
    for position, number in enumerate(numbers):
        try:
            data, label = source.read(number)
        except ValueError as error:
            raise BadImageError(f"{source.name(number)} {error}") from error
        try:
            results.append(use(position, data))
        except ValueError as error:
            text = f"{source.name(number)} {error}; {source.remedy}"
            raise BadImageError(text) from error
        labels.append(label)
    return results, labels
