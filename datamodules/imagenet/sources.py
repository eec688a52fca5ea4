"""ImageNet's images by number, from plain files or from shards."""

import json
from pathlib import Path
from typing import Protocol

import numpy as np

from datamodules.common.shards import ShardSet
from datamodules.imagenet.files import Counts, Files, Wanted
from datamodules.imagenet.jpeg import ImageKindError, standard_jpeg

DATASET = "imagenet"
FIELDS = ("jpg", "cls")


class ImageSource(Protocol):
    """Source of images; the same number gives the same bytes from files and from shards."""

    remedy: str  # what to do about an image that cannot be decoded

    def read(self, number: int) -> tuple[bytes, int]:
        """Return a JPEG's bytes and the class number."""

    def name(self, number: int) -> str:
        """Return where the image is, for messages."""


class FileSource:
    """Images in plain files, listed once by ``write_listing``."""

    remedy = "extract it from its archive again"

    def __init__(self, root: Path, listing: Path, split: str) -> None:
        self.root, self.listing, self.split = root, listing, split
        # Mapped, so that workers share the pages: a list of a million paths would be copied.
        self._names = np.load(listing / f"{split}.names.npy", mmap_mode="r")
        self._labels = np.load(listing / f"{split}.labels.npy", mmap_mode="r")

    def __reduce__(self) -> tuple[type["FileSource"], tuple[Path, Path, str]]:
        return FileSource, (self.root, self.listing, self.split)  # a worker maps the files itself

    def read(self, number: int) -> tuple[bytes, int]:
        """Return a plain JPEG's bytes (others are re-encoded, as in shards) and the class."""
        path = self._path(number)
        try:
            data = path.read_bytes()
        except OSError as error:
            moved = "; if images were moved or renamed, start again"
            hint = moved if isinstance(error, FileNotFoundError) else ""
            raise ValueError(f"cannot be read ({error.strerror}){hint}") from error
        try:
            return standard_jpeg(data), int(self._labels[number])
        except ImageKindError:
            raise
        except ValueError as error:
            raise ValueError(f"{error}; {self.remedy}") from error

    def name(self, number: int) -> str:
        return str(self._path(number))

    def _path(self, number: int) -> Path:
        return self.root / bytes(self._names[number]).decode()


class ShardSource:
    """Images in shards; raises one line per problem, also where ``counts`` do not fit."""

    remedy = "run the recipe's prepare command, which finds and replaces damaged shards"

    def __init__(self, folder: Path, split: str, counts: Counts | Wanted) -> None:
        self.shards = ShardSet(folder, split, dataset=DATASET)
        classes, images = len(self.shards.manifest["facts"]["synsets"]), len(self.shards)
        wanted = counts.train if split == "train" else counts.val
        if counts.classes not in (None, classes) or wanted not in (None, images):
            raise ValueError(
                f"{folder / split}.json has {images} images of {classes} classes, expected "
                f"{wanted or images} of {counts.classes or classes}: these are another data set's "
                "shards"
            )

    def read(self, number: int) -> tuple[bytes, int]:
        data, label = self.shards.read(number)
        return data, int(label)

    def name(self, number: int) -> str:
        return self.shards.name(number)


def write_listing(folder: Path, files: Files) -> None:
    """Write the paths and class numbers of plain files into an empty folder."""
    for split, images in (("train", files.train), ("val", files.val)):
        np.save(folder / f"{split}.names.npy", np.array([name.encode() for name, _ in images]))
        np.save(folder / f"{split}.labels.npy", np.array([c for _, c in images], dtype=np.int32))
    (folder / "synsets.json").write_text(json.dumps(files.synsets))
