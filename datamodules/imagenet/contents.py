"""Contents of a data set of images, and how it differs from ImageNet; opens no image."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from datamodules.common.records import MANIFEST
from datamodules.common.shards import read_manifest
from datamodules.imagenet.files import Counts, Files

IMAGENET = Counts(classes=1000, train=1_281_167, val=50_000)
# SHA-256 of the 1000 synsets in sorted order, one per line. Source: timm, imagenet_synsets.txt.
SYNSETS_SHA256 = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"
# Least and most images of a class. Source: Russakovsky et al., ImageNet Large Scale Visual
# Recognition Challenge (2015), table 2.
PER_CLASS = {"train": (732, 1300), "val": (50, 50)}


@dataclass(frozen=True)
class Contents:
    """Class names in the order of their numbers, and images by split."""

    synsets: Sequence[str]
    train: int
    val: int
    per_class: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Split -> images of each class; empty for shards that version 0.2 wrote."""

    @property
    def counts(self) -> Counts:
        return Counts(len(self.synsets), self.train, self.val)


def of_files(files: Files) -> Contents:
    """Count images that ``scan`` found."""
    per_class = {}
    for split, images in (("train", files.train), ("val", files.val)):
        number = Counter(label for _, label in images)
        per_class[split] = [number[label] for label in range(len(files.synsets))]
    return Contents(files.synsets, len(files.train), len(files.val), per_class)


def of_listing(folder: Path) -> Contents:
    """Count images of a listing."""
    synsets = json.loads((folder / "synsets.json").read_text())
    labels = {split: np.load(folder / f"{split}.labels.npy") for split in ("train", "val")}
    per_class = {
        split: np.bincount(numbers, minlength=len(synsets)).tolist()
        for split, numbers in labels.items()
    }
    return Contents(synsets, len(labels["train"]), len(labels["val"]), per_class)


def of_shards(folder: Path, dataset: str) -> Contents:
    """Read the counts of finished shards from their manifests; a ``ValueError`` if there are none.

    The classes of both splits must be the same.
    """
    train, val = (read_manifest(folder, split, dataset) for split in ("train", "val"))
    synsets = train["facts"]["synsets"]
    if val["facts"]["synsets"] != synsets:
        raise ValueError(
            f"{folder}: the train and val shards have different classes: they are of two data "
            "sets; delete one of them and run the recipe's prepare command"
        )
    try:
        per_class = json.loads((folder / MANIFEST).read_text())["per_class"]
    except (OSError, ValueError, KeyError, TypeError):
        per_class = {}
    return Contents(synsets, train["samples"], val["samples"], per_class)


def differences(contents: Contents) -> list[str]:
    """Return one line per difference from ImageNet; with none the data is the benchmark's."""
    found, wanted = contents.counts, IMAGENET
    pairs = [
        ("classes", found.classes, wanted.classes),
        ("training images", found.train, wanted.train),
        ("evaluation images", found.val, wanted.val),
    ]
    lines = [f"{n:,} {what} instead of {all_:,}" for what, n, all_ in pairs if n != all_]
    if lines:
        return lines
    if hashlib.sha256("\n".join(contents.synsets).encode()).hexdigest() != SYNSETS_SHA256:
        lines.append("class directories with other names than ImageNet's synsets")
    for split, numbers in contents.per_class.items():
        lines += _other_sizes(split, contents.synsets, numbers)
    return lines


def _other_sizes(split: str, synsets: Sequence[str], numbers: Sequence[int]) -> list[str]:
    least, most = PER_CLASS[split]
    odd = [(name, n) for name, n in zip(synsets, numbers, strict=True) if not least <= n <= most]
    if not odd:
        return []
    rule = f"{least}" if least == most else f"{least} to {most}"
    return [
        f"{len(odd)} classes of {split} have other numbers of images than ImageNet's {rule} "
        f"({odd[0][0]} has {odd[0][1]})"
    ]
