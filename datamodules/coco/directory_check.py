"""Check of a whole COCO directory: both annotation files, all images, the splits together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.coco.annotations import Annotations, misfits, parse
from datamodules.coco.image_check import Checked, check_images, fault_lines
from datamodules.coco.json_file import read_json
from datamodules.coco.layout import (
    SPLITS,
    annotation_file,
    existing_images,
    image_folder,
    unmatched_images,
)
from datamodules.coco.published import are_published
from datamodules.common.progress import stage
from datamodules.common.records import RawFile


def check(
    root: Path, *, hashed: bool = False, show_progress: bool = False
) -> tuple[dict[str, Annotations], dict[str, list[Checked]]]:
    """Read both annotation files and check them and the images; one line per problem.

    Args:
        root: The COCO directory.
        hashed: Also read every image as a whole.
        show_progress: Draw a progress bar.

    Returns:
        Annotations and images by split.

    Raises:
        ValueError: One line per problem.
    """
    parsed: dict[str, Annotations] = {}
    images: dict[str, list[Checked]] = {}
    names, problems = {}, []
    for split in SPLITS:
        path, folder = annotation_file(root, split), image_folder(root, split)
        try:
            with stage(f"reading {path.name}"):
                content = read_json(path)
                parsed[split] = parse(content, path)
            names[split] = [(entry["id"], entry.get("name")) for entry in content["categories"]]
            problems += unmatched_images(root, split, parsed[split].file_name)
            images[split] = check_images(
                folder,
                _existing(folder, parsed[split]),
                strict=not _are_own(parsed[split]),
                hashed=hashed,
                show_progress=show_progress,
            )
            problems += fault_lines(folder, images[split])
            bad = {image.name for image in images[split] if image.fault}
            with stage(f"comparing {path.name} with the images"):
                problems += misfits(content, path, but_for=bad)
        except ValueError as error:
            problems += str(error).splitlines()
    if not problems:
        problems = _between_splits(root, parsed, images, names)
    if problems:
        raise ValueError("\n".join(problems))
    return parsed, images


def _existing(folder: Path, annotations: Annotations) -> list[tuple[str, tuple[int, int]]]:
    """Return name, height and width of the annotated images that exist, by name."""
    existing = existing_images(folder, annotations.file_name)
    sizes = zip(annotations.file_name, annotations.size.tolist(), strict=True)
    return sorted((name, (height, width)) for name, (height, width) in sizes if name in existing)


def _are_own(annotations: Annotations) -> bool:
    """Whether these are COCO's own by their number."""
    return are_published(len(annotations), len(annotations.box), len(annotations.category_id))


def _between_splits(
    root: Path,
    parsed: Mapping[str, Annotations],
    images: Mapping[str, Sequence[Checked]],
    names: Mapping[str, Sequence[Any]],
) -> list[str]:
    """Return what the two splits must not differ in, and what they must not share."""
    if names["train"] != names["val"]:
        return [f"{root}: train and val annotations have different categories"]
    if _are_own(parsed["val"]):
        return []
    train, val = (
        {file.sha256: file for file in _annotated_files(parsed[split], images[split])}
        for split in SPLITS
    )
    if not (both := sorted(train.keys() & val.keys(), key=lambda digest: val[digest].path)):
        return []
    return [
        f"{root}: {len(both)} evaluation images are training images too, e.g. {val[both[0]].path} "
        f"is {train[both[0]].path}; remove them from one of the two"
    ]


def _annotated_files(annotations: Annotations, images: Sequence[Checked]) -> list[RawFile]:
    """Return the records of images with objects; empty unless they were hashed."""
    counts = zip(annotations.file_name, annotations.count().tolist(), strict=True)
    used = {name for name, objects in counts if objects}
    return [image.raw for image in images if image.raw and image.name in used]
