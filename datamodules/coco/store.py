"""A COCO folder: what must lie in it, and the compact annotations that ``prepare_data`` makes.

The rules time everything that touches the data, but parsing text into arrays beforehand is free:
training starts from ``finishline-coco/*.npz`` and ``prepare_data`` of a ready folder opens nothing
but its manifest.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.coco.annotations import Annotations, load_annotations, parse, read_json
from datamodules.coco.image_check import unusable_images

SPLITS = ("train", "val")
PREPARED = "finishline-coco"
FORMAT = 3  # raise when the prepared files or the checks change
_ARCHIVES = {
    "train": "http://images.cocodataset.org/zips/train2017.zip (19.3 GB)",
    "val": "http://images.cocodataset.org/zips/val2017.zip (816 MB)",
}


def image_folder(root: Path, split: str) -> Path:
    """Where a split's images lie.

    Args:
        root: The COCO folder.
        split: ``train`` or ``val``.

    Returns:
        The folder.
    """
    return root / f"{split}2017"


def annotation_file(root: Path, split: str) -> Path:
    """A split's annotation file.

    Args:
        root: The COCO folder.
        split: ``train`` or ``val``.

    Returns:
        The file.
    """
    return root / "annotations" / f"instances_{split}2017.json"


def missing_parts(root: Path) -> list[str]:
    """Folders and files that a COCO folder lacks, without opening any.

    Args:
        root: The COCO folder.

    Returns:
        One line each, with where to get it.
    """
    if not root.is_dir():
        return [f"{root} is no folder; make it and unpack COCO 2017 there (cocodataset.org, 21 GB)"]
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


def ready_manifest(root: Path, prepared: Path) -> dict[str, Any] | None:
    """The manifest, if the prepared files belong to the annotation files as they are now.

    Args:
        root: The COCO folder.
        prepared: Folder of the prepared files.

    Returns:
        Its content, or None if something has to be prepared first.
    """
    path = prepared / "manifest.json"
    if not path.is_file():
        return None
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
    except ValueError:  # damaged: make it again
        return None
    fresh = manifest.get("format") == FORMAT and manifest.get("sources") == _sources(root)
    return manifest if fresh else None


def prepare(root: Path, prepared: Path, *, show_progress: bool = False) -> dict[str, Any]:
    """Check a COCO folder and write the compact annotations; does nothing when that is done.

    Args:
        root: The COCO folder.
        prepared: Folder to make; its manifest says that the images were checked.
        show_progress: Draw a progress bar.

    Returns:
        The manifest.

    Raises:
        FileNotFoundError: One line per missing part.
        ValueError: One line per problem in the annotations or images.
    """
    if lines := missing_parts(root):
        raise FileNotFoundError("\n".join(lines))
    if manifest := ready_manifest(root, prepared):
        return manifest
    parsed = check(root, show_progress=show_progress)
    manifest = {"format": FORMAT, "sources": _sources(root)} | facts(parsed)
    try:
        _write(prepared, parsed, manifest)
    except OSError as error:
        raise ValueError(
            f"{prepared} cannot be written ({error.strerror or error}); name another folder with "
            "--data.prepared_dir"
        ) from error
    return manifest


def check(root: Path, *, show_progress: bool = False) -> dict[str, Annotations]:
    """Read both annotation files, compare them with the images that are there, and check those.

    Args:
        root: The COCO folder, with no part missing.
        show_progress: Draw a progress bar.

    Returns:
        Split -> annotations.

    Raises:
        ValueError: One line per problem.
    """
    parsed, problems = {}, []
    for split in SPLITS:
        path = annotation_file(root, split)
        try:
            parsed[split] = parse(read_json(path), path)
            problems += unmatched_images(root, split, parsed[split])
            folder = image_folder(root, split)
            there = set(os.listdir(folder))
            sizes = zip(parsed[split].file_name, parsed[split].size.tolist(), strict=True)
            listed = sorted((name, tuple(size)) for name, size in sizes if name in there)
            problems += unusable_images(folder, listed, show_progress=show_progress)
        except ValueError as error:
            problems += str(error).splitlines()
    if not problems and parsed["train"].category_id.tolist() != parsed["val"].category_id.tolist():
        problems.append(f"{root}: train and val annotations have different categories")
    if problems:
        raise ValueError("\n".join(problems))
    return parsed


def unmatched_images(root: Path, split: str, annotations: Annotations) -> list[str]:
    """Images without an entry in the annotation file, and entries without an image.

    Args:
        root: The COCO folder.
        split: ``train`` or ``val``.
        annotations: The split's annotations.

    Returns:
        At most one line for each of the two.
    """
    folder = image_folder(root, split)
    there = set(os.listdir(folder))
    listed = set(annotations.file_name)
    lines = []
    if lost := sorted(listed - there):
        lines.append(
            f"{folder}: {len(lost)} annotated images are missing, e.g. {lost[0]}; "
            f"unpack {_ARCHIVES[split]} again"
        )
    # Hidden files are other programs' leavings.
    visible = (name for name in there - listed if not name.startswith("."))
    if extra := sorted(name for name in visible if name.endswith(".jpg")):
        lines.append(
            f"{folder}: {len(extra)} images are not in {annotation_file(root, split).name}, e.g. "
            f"{extra[0]}; remove them or take the annotation file they belong to"
        )
    return lines


def load(prepared: Path, split: str) -> Annotations:
    """The prepared annotations of one split.

    Args:
        prepared: Folder of the prepared files.
        split: ``train`` or ``val``.

    Returns:
        The annotations.
    """
    return load_annotations(prepared / f"{split}.npz")


def facts(parsed: dict[str, Annotations]) -> dict[str, Any]:
    """Counts of a data set.

    Args:
        parsed: Split -> annotations.

    Returns:
        Per split the numbers of images, annotations, images with any, images with a box above a
        pixel, objects (no crowds), and objects that cannot be learned or found as masks; and the
        category ids.
    """
    found: dict[str, Any] = {"categories": parsed["train"].category_id.tolist()}
    for split, annotations in parsed.items():
        boxes = annotations.box
        usable = (boxes[:, 2] > 1) & (boxes[:, 3] > 1)
        objects = ~annotations.crowd
        # Training draws polygons; evaluation takes any mask, and needs those of crowds too.
        masked = annotations.ring_count > 0 if split == "train" else annotations.has_mask
        needs_mask = objects if split == "train" else np.ones_like(objects)
        found[split] = {
            "images": len(annotations),
            "annotations": len(boxes),
            "annotated_images": int((annotations.count() > 0).sum()),
            "images_with_usable_box": len(
                {int(i) for i in annotations.offset.searchsorted(usable.nonzero()[0], "right")}
            ),
            "objects": int(objects.sum()),
            "without_mask": int((needs_mask & ~masked).sum()),
        }
    return found


def _write(prepared: Path, parsed: dict[str, Annotations], manifest: dict[str, Any]) -> None:
    """Write arrays and manifest; other files in the folder are none of our business."""
    prepared.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=prepared) as folder:
        partial = Path(folder)
        for split, annotations in parsed.items():
            annotations.save(partial / f"{split}.npz")
        (partial / "manifest.json").write_text(json.dumps(manifest, indent=1))
        # The manifest comes last: until then an older one tells that something has to be done.
        for name in (*(f"{split}.npz" for split in parsed), "manifest.json"):
            (partial / name).replace(prepared / name)


def _sources(root: Path) -> dict[str, list[int]]:
    """Size and time of both annotation files, to notice when they change."""
    stats = {split: annotation_file(root, split).stat() for split in SPLITS}
    return {split: [stat.st_size, stat.st_mtime_ns] for split, stat in stats.items()}
