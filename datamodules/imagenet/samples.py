"""ImageNet's images by number, from plain files or from shards, and the data sets over them.

Shapes: B batch, S side of the square images. Batches hold ``image`` (B, 3, S, S) uint8 RGB with
channels innermost in memory, ``label`` (B,) int64 and ``index`` (B,) int64.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.common.sampling import SampleKey, sample_rng
from datamodules.common.shards import ShardSet
from datamodules.imagenet.files import Counts, Files
from datamodules.imagenet.images import evaluation_image, standard_jpeg, training_image

DATASET = "imagenet"
FIELDS = ("jpg", "cls")
_ERROR = "BadImageError: "


class BadImageError(ValueError):
    """An image that cannot be used.

    Args:
        text: One line; or what a loader's worker makes of it, whose last line that is.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text.rstrip().rpartition(_ERROR)[2])


class Batch(TypedDict):
    """Images, class numbers and sample numbers."""

    image: Tensor
    label: Tensor
    index: Tensor


class ImageSource(Protocol):
    """Where images come from; the same number gives the same bytes from files and from shards.

    Attributes:
        remedy: What to do about an image that cannot be decoded.
    """

    remedy: str

    def read(self, number: int) -> tuple[bytes, int]:
        """A JPEG's bytes and the class number."""

    def name(self, number: int) -> str:
        """Where the image is, for messages."""


class FileSource:
    """Images in plain files, listed once and never kept in memory as a list.

    Args:
        root: Folder that the listed paths start from.
        listing: Folder that ``write_listing`` made.
        split: ``train`` or ``val``.
    """

    remedy = "take it out of its archive again"

    def __init__(self, root: Path, listing: Path, split: str) -> None:
        self.root, self.listing = root, listing
        # Mapped, so that workers share the pages: a list of a million paths would be copied.
        self._names = np.load(listing / f"{split}.names.npy", mmap_mode="r")
        self._labels = np.load(listing / f"{split}.labels.npy", mmap_mode="r")

    def read(self, number: int) -> tuple[bytes, int]:
        """Bytes and class of one image.

        Args:
            number: The image.

        Returns:
            A plain JPEG's bytes (others are encoded anew, as in shards) and the class number.

        Raises:
            ValueError: If the file is missing or no image.
        """
        path = self._path(number)
        try:
            data = path.read_bytes()
        except OSError as error:
            moved = f"; if images were moved, delete {self.listing}"
            hint = moved if isinstance(error, FileNotFoundError) else ""
            raise ValueError(f"cannot be read ({error.strerror}){hint}") from error
        try:
            return standard_jpeg(data), int(self._labels[number])
        except ValueError as error:
            raise ValueError(f"{error}; {self.remedy}") from error

    def name(self, number: int) -> str:
        """The file's path.

        Args:
            number: The image.

        Returns:
            The path.
        """
        return str(self._path(number))

    def _path(self, number: int) -> Path:
        return self.root / bytes(self._names[number]).decode()


class ShardSource:
    """Images in shards.

    Args:
        folder: Folder of the shards.
        split: ``train`` or ``val``.
        counts: What the manifest must agree with.

    Raises:
        ValueError: One line per problem.
    """

    remedy = "run the recipe's prepare command, which finds and replaces damaged shards"

    def __init__(self, folder: Path, split: str, counts: Counts) -> None:
        self.shards = ShardSet(folder, split, dataset=DATASET)
        found = (len(self.shards.manifest["facts"]["synsets"]), len(self.shards))
        expected = (counts.classes, counts.train if split == "train" else counts.val)
        if found != expected:
            raise ValueError(
                f"{folder / split}.json has {found[1]} images of {found[0]} classes, expected "
                f"{expected[1]} of {expected[0]}: these are another data set's shards"
            )

    def read(self, number: int) -> tuple[bytes, int]:
        """Bytes and class of one image.

        Args:
            number: The image.

        Returns:
            A plain JPEG's bytes and the class number.
        """
        data, label = self.shards.read(number)
        return data, int(label)

    def name(self, number: int) -> str:
        """Shard and member.

        Args:
            number: The image.

        Returns:
            Both in one string.
        """
        return self.shards.name(number)


def write_listing(folder: Path, files: Files) -> None:
    """Write the paths and class numbers of plain files.

    Args:
        folder: Existing empty folder.
        files: The images.
    """
    for split, images in (("train", files.train), ("val", files.val)):
        np.save(folder / f"{split}.names.npy", np.array([name.encode() for name, _ in images]))
        np.save(folder / f"{split}.labels.npy", np.array([c for _, c in images], dtype=np.int32))
    (folder / "synsets.json").write_text(json.dumps(files.synsets))


class TrainingImages(Dataset[Batch]):
    """Augmented images; a batch of keys gives a batch.

    Args:
        source: The images.
        side: S.
        seed: Run seed.
    """

    def __init__(self, source: ImageSource, side: int, seed: int) -> None:
        self.source, self.side, self.seed = source, side, seed

    def __getitem__(self, key: SampleKey) -> Batch:
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[SampleKey]) -> Batch:
        """Augment a batch of images; the draws depend on seed and key only.

        Args:
            keys: Which images, in which epoch.

        Returns:
            The batch.
        """

        def make(place: int, data: bytes) -> np.ndarray:
            return training_image(data, sample_rng(self.seed, *_draw(keys[place])), self.side)

        return _batch(self.source, [key.index for key in keys], self.side, make)


class EvaluationImages(Dataset[Batch]):
    """Centre crops of some images.

    Args:
        source: The images.
        side: S.
        numbers: Which ones, in order.
    """

    def __init__(self, source: ImageSource, side: int, numbers: Sequence[int]) -> None:
        self.source, self.side, self.numbers = source, side, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> Batch:
        return self.__getitems__([place])

    def __getitems__(self, places: Sequence[int]) -> Batch:
        """Crop a batch of images.

        Args:
            places: Places in ``numbers``.

        Returns:
            The batch.
        """
        numbers = [self.numbers[place] for place in places]

        def make(place: int, data: bytes) -> np.ndarray:
            return evaluation_image(data, self.side)

        return _batch(self.source, numbers, self.side, make)


def as_is(batch: Batch) -> Batch:
    """Collate function of loaders whose data set makes whole batches.

    Args:
        batch: The batch.

    Returns:
        The same.
    """
    return batch


def _draw(key: SampleKey) -> tuple[int, int, int]:
    return key.epoch, key.index, key.repeat


def _batch(
    source: ImageSource,
    numbers: Sequence[int],
    side: int,
    make: Callable[[int, bytes], np.ndarray],
) -> Batch:
    """Read images straight into their place of the batch."""
    image_BSS3 = np.empty((len(numbers), side, side, 3), dtype=np.uint8)
    labels = []
    for place, number in enumerate(numbers):
        try:
            data, label = source.read(number)
        except ValueError as error:
            raise BadImageError(f"{source.name(number)} {error}") from error
        try:
            image_BSS3[place] = make(place, data)
        except ValueError as error:
            text = f"{source.name(number)} {error}; {source.remedy}"
            raise BadImageError(text) from error
        labels.append(label)
    return {
        "image": torch.from_numpy(image_BSS3).permute(0, 3, 1, 2),
        "label": torch.tensor(labels),
        "index": torch.tensor(numbers),
    }
