"""A COCO directory's compact annotations, which ``prepare_data`` makes once all was checked.

The rules time everything that touches the data, but parsing text into arrays beforehand is free:
training starts from ``finishline-coco/*.npz``.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.coco.annotations import Annotations, load_annotations, load_names
from datamodules.coco.directory_check import check
from datamodules.coco.image_check import Checked
from datamodules.coco.layout import (
    SPLITS,
    annotation_file,
    image_folder,
    missing_parts,
    unmatched_images,
)
from datamodules.common import records
from datamodules.common.atomic import atomic_file
from datamodules.common.preparation import (
    Done,
    Unit,
    missing_space,
    preparing,
    units_to_redo,
)
from datamodules.common.records import (
    changed_units,
    damaged_units,
    raw_file,
    read_records,
)

PREPARED = "finishline-coco"
DATASET, VERSION = "coco", 4  # increase it when the prepared files change
Parsed = Mapping[str, Annotations]


def read_manifest(root: Path, prepared: Path, *, replace: bool = False) -> dict[str, Any] | None:
    """Return the manifest of a prepared directory, or None."""
    upgrade = partial(_upgrade, root)
    return records.read_manifest(
        prepared, DATASET, version=VERSION, upgrade=upgrade, replace=replace, keys=SPLITS
    )


def ready_manifest(root: Path, prepared: Path) -> dict[str, Any] | None:
    """Return the manifest if no annotation file or prepared file has changed since, else None.

    Images are not looked at: a run starts with this.
    """
    manifest = read_manifest(root, prepared, replace=True)
    changed = changed_units(prepared, root, SPLITS)
    return None if changed or damaged_units(prepared) else manifest


def changes(root: Path, prepared: Path) -> list[str]:
    """Return a line per part that has changed since a directory was prepared, images included."""
    lines = [*damaged_units(prepared).values(), *changed_units(prepared, root).values()]
    for split in SPLITS if not lines else ():
        lines += unmatched_images(root, split, load_names(prepared / f"{split}.npz"))
    return lines


def _upgrade(root: Path, content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read a manifest of version 3, which has size and time of the annotation files."""
    stats = {split: annotation_file(root, split).stat() for split in SPLITS}
    sources = {split: [stat.st_size, stat.st_mtime_ns] for split, stat in stats.items()}
    if content.get("format") != 3 or content.get("sources") != sources:
        return None
    return {**content, "dataset": DATASET, "format": VERSION, "settings": {}}


def prepare(
    root: Path, prepared: Path, *, compare: bool = False, show_progress: bool = False
) -> dict[str, Any]:
    """Check a COCO directory and write the compact annotations; does nothing if that is done.

    Args:
        root: The COCO directory.
        prepared: Directory to make; its manifest means that the images were checked.
        compare: Also compare the images with what was checked.
        show_progress: Draw a progress bar.

    Returns:
        The manifest.

    Raises:
        FileNotFoundError: One line per missing part.
        ValueError: One line per problem in the annotations or images.
    """
    if lines := missing_parts(root):
        raise FileNotFoundError("\n".join(lines))
    manifest = ready_manifest(root, prepared)
    if manifest and not compare:
        return manifest
    redo = units_to_redo(prepared, root)
    if manifest and not redo and _is_noted(root, prepared) and not changes(root, prepared):
        return manifest
    parsed, images = check(root, hashed=True, show_progress=show_progress)
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
        noted = preparation.manifest and _is_noted(root, prepared)
        if noted and (manifest := read_manifest(root, prepared)):
            return manifest
        tables = [_table(root, split) for split in SPLITS]
        job = partial(_write_split, root, prepared, parsed)
        # In this process, which has the annotations already.
        counts = preparation.run("writing annotations", job, tables, processes=1)
        checked = [Unit(_images_name(root, split), split) for split in SPLITS]
        preparation.run("noting images", partial(_note_images, images), checked, processes=1)
        return preparation.finish({"categories": parsed["train"].category_id.tolist(), **counts})


def missing_room(root: Path, prepared: Path) -> list[str]:
    """Return a line if there is too little free space for the compact annotations."""
    return missing_space(prepared, sum(_table(root, split).num_bytes for split in SPLITS))


def _is_noted(root: Path, prepared: Path) -> bool:
    """Whether the images are recorded; versions before 0.3 did not, and checked less."""
    return {_images_name(root, split) for split in SPLITS} <= read_records(prepared).keys()


def _table(root: Path, split: str) -> Unit:
    size = annotation_file(root, split).stat().st_size
    return Unit(split, split, files=(f"{split}.npz",), num_bytes=size)


def _images_name(root: Path, split: str) -> str:
    """Name a split's images apart from its annotations, also in a folder named as the split."""
    return f"{image_folder(root, split).name}/"


def _write_split(root: Path, prepared: Path, parsed: Parsed, split: str) -> Done:
    with atomic_file(prepared / f"{split}.npz") as file:
        parsed[split].save(file)
    return Done(count(parsed[split], split), [raw_file(annotation_file(root, split))])


def _note_images(images: Mapping[str, Sequence[Checked]], split: str) -> Done:
    return Done(None, [image.raw for image in images[split] if image.raw])


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
