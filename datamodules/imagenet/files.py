"""Find the images of ImageNet, or of one's own classes, and name what is missing.

Accepted: ``train/<class>/*.JPEG`` with ``val/<class>/*.JPEG``, or with ``val/*.JPEG`` and a file
of labels, one class per line in the order of the file names. ImageNet's classes are named by their
synsets; own ones may have any names and any numbers of images.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from datamodules.common.progress import stage
from datamodules.common.reading import unreadable

# Those of torchvision's ImageFolder; all but JPEG are re-encoded when they are read.
ENDINGS = (".jpeg", ".jpg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
LEAVINGS = {"thumbs.db", "desktop.ini"}  # of file browsers; hidden files are left out as well
PACKED = (".tar", ".tgz", ".gz", ".zip")
SYNSET = re.compile(r"n\d{8}")
LABELS = ("imagenet_2012_validation_synset_labels.txt", "synset_labels.txt")
SOURCE = "image-net.org (free account, non-commercial research only)"
TRAIN_ARCHIVE = f"ILSVRC2012_img_train.tar, 148 GB, from {SOURCE}"
VAL_ARCHIVE = f"ILSVRC2012_img_val.tar, 6.7 GB, from {SOURCE}"
NAMED = 3  # missing classes that a message names before it only counts them


@dataclass(frozen=True)
class Counts:
    """Classes and images of a data set."""

    classes: int
    train: int
    val: int


class Wanted(NamedTuple):
    """Counts that a data set must have; None accepts any."""

    classes: int | None = None
    train: int | None = None
    val: int | None = None


@dataclass(frozen=True)
class Files:
    """The images of both splits: path from the root and class number of each."""

    synsets: tuple[str, ...]  # in sorted order; the position is the class number
    train: Sequence[tuple[str, int]]  # by class and name
    val: Sequence[tuple[str, int]]  # by file name
    unused: Sequence[str] = ()  # one line per class folder with entries that are not images


class Folder(NamedTuple):
    """Names in a folder, in sorted order; hidden ones are left out."""

    images: list[str]
    others: list[str]


def scan(root: Path, counts: Counts | Wanted) -> Files:
    """List all images without opening one; raise one line per problem."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a directory; --data.root names the one with train/")
    try:
        with stage("listing images"):
            return _scan(root, counts)
    except OSError as error:  # of a directory, which must not pass for an empty one
        raise unreadable(root, error) from error


def _scan(root: Path, counts: Counts | Wanted) -> Files:
    train = _class_folders(root / "train")
    flat = _folder(root / "val").images
    val = {} if flat else _class_folders(root / "val")
    problems = _missing_parts(root, _has_images(train), bool(flat) or _has_images(val))
    if problems:
        raise ValueError("\n".join(problems))
    labels, problems = _labels(root, flat, val)
    synsets = sorted(train)
    for split, folders in (("train", train), ("val", val)):
        problems += _empty_classes(root / split, folders) + _still_packed(root / split, folders)
    problems += _missing_classes(root, train, {synset for _, synset in labels}, counts)
    num_train = sum(len(folder.images) for folder in train.values())
    problems += _wrong_count(root / "train", num_train, counts.train, TRAIN_ARCHIVE)
    problems += _wrong_count(root / "val", len(flat) or len(labels), counts.val, VAL_ARCHIVE)
    if problems:
        raise ValueError("\n".join(problems))
    number = {synset: label for label, synset in enumerate(synsets)}
    return Files(
        tuple(synsets),
        [(f"train/{s}/{name}", number[s]) for s in synsets for name in train[s].images],
        [(f"val/{name}", number[synset]) for name, synset in labels],
        [*_unused(root / "train", train), *_unused(root / "val", val)],
    )


def has_raw_images(root: Path) -> bool:
    """Return whether a folder has training images; they may be gone once there are shards."""
    try:
        return _has_images(_class_folders(root / "train"))
    except OSError:
        return True


def labels_of_flat_val(root: Path) -> bytes:
    """Return the content of the file of labels where ``val`` is flat, else nothing."""
    path = _labels_file(root)
    return path.read_bytes() if path is not None and _folder(root / "val").images else b""


def folder_times(root: Path) -> Iterator[str]:
    """Yield each folder's time, which changes when an image is added, removed or renamed."""
    for split in ("train", "val"):
        yield f"{split} {(root / split).stat().st_mtime_ns}"
        for name in sorted(os.listdir(root / split)):
            if (path := root / split / name).is_dir():
                yield f"{split}/{name} {path.stat().st_mtime_ns}"


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


def _class_folders(folder: Path) -> dict[str, Folder]:
    """List every class folder; a link to a folder that is not there is an error."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        paths = sorted(Path(entry) for entry in entries if not entry.name.startswith("."))
    broken = [path for path in paths if path.is_symlink() and not path.exists()]
    for path in broken:
        path.stat()
    return {path.name: _folder(path) for path in paths if path.is_dir()}


def _folder(folder: Path) -> Folder:
    """List a folder, without hidden files of other programs."""
    if not folder.is_dir():
        return Folder([], [])
    with os.scandir(folder) as entries:
        # To open a pipe or a device could take forever.
        kinds = {e.name: e.is_file() or e.is_symlink() or e.is_dir() for e in entries}
    names = sorted(name for name in kinds if not name.startswith("."))
    images = [name for name in names if name.lower().endswith(ENDINGS) and kinds[name]]
    if len(images) == len(names):
        return Folder(images, [])
    used = {*images}
    return Folder(images, [n for n in names if n not in used and n.lower() not in LEAVINGS])


def _has_images(folders: dict[str, Folder]) -> bool:
    return any(folder.images for folder in folders.values())


def _labels(
    root: Path, flat: list[str], folders: dict[str, Folder]
) -> tuple[list[tuple[str, str]], list[str]]:
    """Return name (from ``val``) and class of each evaluation image, by file name; problems."""
    if not flat:
        pairs = [(f"{cls}/{name}", cls) for cls in folders for name in folders[cls].images]
        return sorted(pairs, key=lambda pair: pair[0].partition("/")[2]), []
    path = _labels_file(root)
    if path is None:
        return [], [
            f"{root / 'val'} is flat, so it needs {root / LABELS[0]}: one synset per line in the "
            "order of the file names (tensorflow/models, research/inception has it), or sort the "
            "images into class directories as in train"
        ]
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    if len(lines) != len(flat):
        text = f"{path} has {len(lines)} labels for {len(flat)} images in {root / 'val'}"
        return [], [f"{text}; get the whole file, or the missing images"]
    return list(zip(flat, lines, strict=True)), []


def _empty_classes(folder: Path, classes: dict[str, Folder]) -> list[str]:
    empty = [name for name, content in classes.items() if not content.images]
    if not empty:
        return []
    return [
        f"{folder} has {len(empty)} directories without images ({_named(empty)}): put images "
        f"({', '.join(ENDINGS[:3])}, ...) directly into them, or remove them"
    ]


def _still_packed(folder: Path, classes: dict[str, Folder]) -> list[str]:
    """Name archives of classes whose directory is not there: half of the data would be missing."""
    names = [name for name in _folder(folder).others if name.lower().endswith(PACKED)]
    if not (packed := [name for name in names if name.split(".")[0] not in classes]):
        return []
    return [
        f"{folder} has {len(packed)} archives that are not unpacked ({_named(packed)}): unpack "
        "each into a directory of its name, or remove it"
    ]


def _missing_classes(
    root: Path, train: dict[str, Folder], labelled: set[str], counts: Counts | Wanted
) -> list[str]:
    if missing := sorted(labelled - set(train)):
        where = TRAIN_ARCHIVE if SYNSET.fullmatch(missing[0]) else "add them, or remove them in val"
        return [
            f"{root / 'train'} lacks {len(missing)} class directories ({_named(missing)}) that "
            f"val has: {where}"
        ]
    if counts.classes not in (None, len(train)):
        return [f"{root / 'train'} has {len(train)} class directories, expected {counts.classes}"]
    if len(train) == 1:
        (name,) = train
        return [f"{root / 'train'} has one class directory ({name}), training needs at least two"]
    return []


def _wrong_count(folder: Path, count: int, expected: int | None, archive: str) -> list[str]:
    if expected is None or count == expected:
        return []
    what = f"lacks {expected - count}" if count < expected else f"has {count - expected} too many"
    return [f"{folder} {what} of {expected} images: {archive}"]


def _unused(folder: Path, classes: dict[str, Folder]) -> Iterator[str]:
    for name, content in classes.items():
        if content.others:
            entries = f"{len(content.others)} entries that are not images"
            yield f"{folder / name} has {entries} ({_named(content.others)}); they are not used"


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
