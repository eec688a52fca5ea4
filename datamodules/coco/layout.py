"""Where a COCO directory keeps its images and annotations, also one of somebody's own data."""

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

SPLITS = ("train", "val")
# COCO's own first; then other writers' and trainers'. The first that exists counts.
_NAMES = {
    "train": ("train2017", "train"),
    "val": ("val2017", "val", "valid", "validation"),
}
_FOLDERS = ("{name}", "images/{name}")
_ANNOTATIONS = ("annotations/instances_{name}.json", "annotations/{name}.json")
_BESIDE_IMAGES = "_annotations.coco.json"
_ARCHIVES = {
    "train": "http://images.cocodataset.org/zips/train2017.zip (19.3 GB)",
    "val": "http://images.cocodataset.org/zips/val2017.zip (816 MB)",
}
_IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def image_folder(root: Path, split: str) -> Path:
    """Return a split's images: ``train2017``, ``train``, or either in ``images``."""
    folders = [root / form.format(name=name) for name in _NAMES[split] for form in _FOLDERS]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def annotation_file(root: Path, split: str) -> Path:
    """Return a split's annotations, of ``annotations`` or next to the images."""
    files = [root / form.format(name=name) for name in _NAMES[split] for form in _ANNOTATIONS]
    files.append(image_folder(root, split) / _BESIDE_IMAGES)
    return next((path for path in files if path.is_file()), files[0])


def missing_parts(root: Path) -> list[str]:
    """Return one line per part that a COCO directory lacks, without opening any."""
    if not root.is_dir():
        return [f"{root} is not a directory; unpack COCO 2017 there (cocodataset.org, 21 GB)"]
    lines = [
        f"{image_folder(root, split)} is missing; unpack {_ARCHIVES[split]} in {root}"
        for split in SPLITS
        if not image_folder(root, split).is_dir()
    ]
    archive = "http://images.cocodataset.org/annotations/annotations_trainval2017.zip (253 MB)"
    return lines + [
        f"{annotation_file(root, split)} is missing; unpack {archive} in {root}"
        for split in SPLITS
        if not annotation_file(root, split).is_file()
    ]


def count_images(root: Path, split: str) -> int:
    """Return how many image files a split's folder has, without opening any."""
    return sum(map(_is_image, _names(image_folder(root, split))))


def unmatched_images(root: Path, split: str, listed: Iterable[str]) -> list[str]:
    """Name images without an annotation entry and entries without an image, one line each."""
    folder, listed = image_folder(root, split), set(listed)
    existing = existing_images(folder, listed)
    lines = []
    if lost := sorted(listed - existing):
        lines.append(
            f"{folder}: {len(lost)} annotated images are missing, e.g. {lost[0]}; "
            f"unpack {_ARCHIVES[split]} again"
        )
    if extra := sorted(name for name in existing - listed if _is_image(name)):
        lines.append(
            f"{folder}: {len(extra)} images are not in {annotation_file(root, split).name}, e.g. "
            f"{extra[0]}; remove them or use the annotation file they belong to"
        )
    return lines


def existing_images(folder: Path, listed: Iterable[str]) -> set[str]:
    """Return the files of the image folder, and of those below it that the list names."""
    inner = {PurePosixPath(name).parent for name in listed} - {PurePosixPath()}
    below = {f"{path}/{name}" for path in inner for name in _names(folder / path)}
    return below | set(_names(folder))


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be read ({error.strerror}); correct its access rights, or mount it "
            "again"
        ) from None


def _is_image(name: str) -> bool:
    """Hidden files are left by other programs."""
    path = PurePosixPath(name)
    return not path.name.startswith(".") and path.suffix.lower() in _IMAGE_ENDINGS
