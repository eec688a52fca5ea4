"""A COCO directory: its layout, and the compact annotations that ``prepare_data`` makes.

The rules time everything that touches the data, but parsing text into arrays beforehand is free:
training starts from ``finishline-coco/*.npz``.
"""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.coco.annotations import Annotations, load_annotations, parse, read_json
from datamodules.coco.image_check import unusable_images
from datamodules.common import records
from datamodules.common.atomic import atomic_file
from datamodules.common.preparation import Done, Unit, preparing, units_to_redo
from datamodules.common.records import changed_units, damaged_units, raw_file

SPLITS = ("train", "val")
PREPARED = "finishline-coco"
DATASET, VERSION = "coco", 4  # increase it when the prepared files or the checks change
_ARCHIVES = {
    "train": "http://images.cocodataset.org/zips/train2017.zip (19.3 GB)",
    "val": "http://images.cocodataset.org/zips/val2017.zip (816 MB)",
}


def image_folder(root: Path, split: str) -> Path:
    return root / f"{split}2017"


def annotation_file(root: Path, split: str) -> Path:
    return root / "annotations" / f"instances_{split}2017.json"


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


def read_manifest(root: Path, prepared: Path, *, replace: bool = False) -> dict[str, Any] | None:
    """Return the manifest of a prepared directory, or None."""
    upgrade = partial(_upgrade, root)
    return records.read_manifest(
        prepared, DATASET, version=VERSION, upgrade=upgrade, replace=replace, keys=SPLITS
    )


def ready_manifest(root: Path, prepared: Path) -> dict[str, Any] | None:
    """Return the manifest if no annotation file or prepared file has changed since, else None."""
    manifest = read_manifest(root, prepared, replace=True)
    return None if changed_units(prepared, root) or damaged_units(prepared) else manifest


def _upgrade(root: Path, content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read a manifest of version 3, which has size and time of the annotation files."""
    stats = {split: annotation_file(root, split).stat() for split in SPLITS}
    sources = {split: [stat.st_size, stat.st_mtime_ns] for split, stat in stats.items()}
    if content.get("format") != 3 or content.get("sources") != sources:
        return None
    return {**content, "dataset": DATASET, "format": VERSION, "settings": {}}


def prepare(root: Path, prepared: Path, *, show_progress: bool = False) -> dict[str, Any]:
    """Check a COCO directory and write the compact annotations; does nothing if that is done.

    Args:
        root: The COCO directory.
        prepared: Directory to make; its manifest means that the images were checked.
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
    redo = units_to_redo(prepared, root)
    parsed = check(root, show_progress=show_progress)
    with preparing(
        prepared,
        DATASET,
        {},
        version=VERSION,
        root=root,
        redo=redo,
        upgrade=partial(_upgrade, root),
        show_progress=show_progress,
    ) as preparation:
        if preparation.manifest and (manifest := read_manifest(root, prepared)):
            return manifest
        units = [_unit(root, split) for split in SPLITS]
        job = partial(_write_split, root, prepared, parsed)
        # In this process, which has the annotations already.
        counts = preparation.run("writing annotations", job, units, processes=1)
        return preparation.finish({"categories": parsed["train"].category_id.tolist(), **counts})


def _unit(root: Path, split: str) -> Unit:
    size = annotation_file(root, split).stat().st_size
    return Unit(split, split, files=(f"{split}.npz",), num_bytes=size)


def _write_split(root: Path, prepared: Path, parsed: Mapping[str, Annotations], split: str) -> Done:
    with atomic_file(prepared / f"{split}.npz") as file:
        parsed[split].save(file)
    return Done(count(parsed[split], split), [raw_file(annotation_file(root, split))])


def check(root: Path, *, show_progress: bool = False) -> dict[str, Annotations]:
    """Read both annotation files and check them and the images; one line per problem."""
    parsed, problems = {}, []
    for split in SPLITS:
        path = annotation_file(root, split)
        try:
            parsed[split] = parse(read_json(path), path)
            problems += unmatched_images(root, split, parsed[split])
            folder = image_folder(root, split)
            existing = set(os.listdir(folder))
            sizes = zip(parsed[split].file_name, parsed[split].size.tolist(), strict=True)
            listed = sorted((name, tuple(size)) for name, size in sizes if name in existing)
            problems += unusable_images(folder, listed, show_progress=show_progress)
        except ValueError as error:
            problems += str(error).splitlines()
    if not problems and parsed["train"].category_id.tolist() != parsed["val"].category_id.tolist():
        problems.append(f"{root}: train and val annotations have different categories")
    if problems:
        raise ValueError("\n".join(problems))
    return parsed


def unmatched_images(root: Path, split: str, annotations: Annotations) -> list[str]:
    """Name images without an annotation entry and entries without an image, one line each."""
    folder = image_folder(root, split)
    existing = set(os.listdir(folder))
    listed = set(annotations.file_name)
    lines = []
    if lost := sorted(listed - existing):
        lines.append(
            f"{folder}: {len(lost)} annotated images are missing, e.g. {lost[0]}; "
            f"unpack {_ARCHIVES[split]} again"
        )
    # Hidden files are left by other programs.
    visible = (name for name in existing - listed if not name.startswith("."))
    if extra := sorted(name for name in visible if name.endswith(".jpg")):
        lines.append(
            f"{folder}: {len(extra)} images are not in {annotation_file(root, split).name}, e.g. "
            f"{extra[0]}; remove them or use the annotation file they belong to"
        )
    return lines


def load(prepared: Path, split: str) -> Annotations:
    return load_annotations(prepared / f"{split}.npz")


def count(annotations: Annotations, split: str) -> dict[str, int]:
    """Count images, those of use to either benchmark, objects, and objects without a mask."""
    boxes = annotations.box
    usable = (boxes[:, 2] > 1) & (boxes[:, 3] > 1)
    objects = ~annotations.crowd
    # Training draws polygons; evaluation takes any mask, and needs those of crowds too.
    masked = annotations.ring_count > 0 if split == "train" else annotations.has_mask
    needs_mask = objects if split == "train" else np.ones_like(objects)
    owners = annotations.offset.searchsorted(usable.nonzero()[0], "right")
    return {
        "images": len(annotations),
        "annotations": len(boxes),
        "annotated_images": int((annotations.count() > 0).sum()),
        "images_with_usable_box": len(np.unique(owners)),
        "objects": int(objects.sum()),
        "without_mask": int((needs_mask & ~masked).sum()),
    }
