"""Find ImageNet's files in a folder, and name what is missing.

Accepted: ``train/<synset>/*.JPEG`` with ``val/<synset>/*.JPEG``, or with ``val/*.JPEG`` and a file
of labels, one synset per line in the order of the file names.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ENDINGS = (".jpeg", ".jpg", ".png")
LABELS = ("imagenet_2012_validation_synset_labels.txt", "synset_labels.txt")
SOURCE = "image-net.org (free account, non-commercial research only)"
TRAIN_ARCHIVE = f"ILSVRC2012_img_train.tar, 148 GB, from {SOURCE}"
VAL_ARCHIVE = f"ILSVRC2012_img_val.tar, 6.7 GB, from {SOURCE}"
NAMED = 3  # missing classes that a message names before it only counts them


@dataclass(frozen=True)
class Counts:
    """Classes and images of the complete data set."""

    classes: int
    train: int
    val: int


@dataclass(frozen=True)
class Files:
    """The images of both splits: path from the root and class number of each."""

    synsets: tuple[str, ...]  # in sorted order; the position is the class number
    train: Sequence[tuple[str, int]]  # by class and name
    val: Sequence[tuple[str, int]]  # by file name


def scan(root: Path, counts: Counts) -> Files:
    """List all images without opening one; raise one line per problem."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a directory; --data.root names the one with train/")
    train = _class_folders(root / "train")
    flat = _images(root / "val")
    val = {} if flat else _class_folders(root / "val")
    problems = _missing_parts(root, bool(train), bool(flat or val))
    if problems:
        raise ValueError("\n".join(problems))
    labels, problems = _labels(root, flat, val)
    synsets = sorted(train)
    problems += _missing_classes(root, train, {synset for _, synset in labels}, counts)
    num_train = sum(map(len, train.values()))
    problems += _wrong_count(root / "train", num_train, counts.train, TRAIN_ARCHIVE)
    problems += _wrong_count(root / "val", len(flat) or len(labels), counts.val, VAL_ARCHIVE)
    if problems:
        raise ValueError("\n".join(problems))
    number = {synset: label for label, synset in enumerate(synsets)}
    return Files(
        tuple(synsets),
        [(f"train/{s}/{name}", number[s]) for s in synsets for name in train[s]],
        [(f"val/{name}", number[synset]) for name, synset in labels],
    )


def labels_of_flat_val(root: Path) -> bytes:
    """Return the content of the file of labels where ``val`` is flat, else nothing."""
    path = _labels_file(root)
    return path.read_bytes() if path is not None and _images(root / "val") else b""


def _labels_file(root: Path) -> Path | None:
    paths = (folder / name for folder in (root, root / "val") for name in LABELS)
    return next((path for path in paths if path.is_file()), None)


def _missing_parts(root: Path, has_train: bool, has_val: bool) -> list[str]:
    problems = []
    if not has_train:
        problems.append(
            f"{root / 'train'} contains no class directories with images: unpack {TRAIN_ARCHIVE}, "
            "then each of its inner archives into a directory of that archive's name"
        )
    if not has_val:
        problems.append(f"{root / 'val'} contains no images: unpack {VAL_ARCHIVE} there")
    return problems


def _class_folders(folder: Path) -> dict[str, list[str]]:
    """List the image names of every class folder that has any."""
    if not folder.is_dir():
        return {}
    folders = {
        entry.name: _images(Path(entry))
        for entry in os.scandir(folder)
        if entry.is_dir() and not entry.name.startswith(".")
    }
    return {synset: names for synset, names in folders.items() if names}


def _images(folder: Path) -> list[str]:
    """List the image files of a folder by name, without hidden ones of other programs."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        names = (entry.name for entry in entries)
        return sorted(n for n in names if n.lower().endswith(ENDINGS) and n[0] != ".")


def _labels(
    root: Path, flat: list[str], folders: dict[str, list[str]]
) -> tuple[list[tuple[str, str]], list[str]]:
    """Return name (from ``val``) and synset of each evaluation image, by file name; problems."""
    if not flat:
        pairs = [(f"{synset}/{name}", synset) for synset in folders for name in folders[synset]]
        return sorted(pairs, key=lambda pair: pair[0].partition("/")[2]), []
    path = _labels_file(root)
    if path is None:
        return [], [
            f"{root / 'val'} is flat, so it needs {root / LABELS[0]}: one synset per line in the "
            "order of the file names (tensorflow/models, research/inception has it), or sort the "
            "images into synset directories"
        ]
    lines = path.read_text().split()
    if len(lines) != len(flat):
        text = f"{path} has {len(lines)} labels for {len(flat)} images in {root / 'val'}"
        return [], [f"{text}; get the whole file, or the missing images"]
    return list(zip(flat, lines, strict=True)), []


def _missing_classes(
    root: Path, train: dict[str, list[str]], labelled: set[str], counts: Counts
) -> list[str]:
    missing = sorted(labelled - set(train))
    if missing:
        names = ", ".join(missing[:NAMED]) + (", ..." if len(missing) > NAMED else "")
        return [
            f"{root / 'train'} lacks {len(missing)} class directories ({names}): {TRAIN_ARCHIVE}"
        ]
    if len(train) != counts.classes:
        return [f"{root / 'train'} has {len(train)} class directories, expected {counts.classes}"]
    return []


def _wrong_count(folder: Path, count: int, expected: int, archive: str) -> list[str]:
    if count == expected:
        return []
    what = f"lacks {expected - count}" if count < expected else f"has {count - expected} too many"
    return [f"{folder} {what} of {expected} images: {archive}"]
