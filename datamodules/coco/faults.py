"""Checks of the entries of a COCO annotation file, reported in plain words."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from datamodules.coco.geometry import Size
from datamodules.coco.misfit import MIN_COORDINATES, Fault, geometry_faults

MAX_LINES = 10  # per kind of problem; the rest is counted
MAX_ID = 2**63 - 1


def limit_lines(problems: Iterable[Fault]) -> list[str]:
    """Return at most ``MAX_LINES`` lines per kind of problem, then how many more there are."""
    lines, counts = [], Counter[str]()
    for kind, line in problems:
        counts[kind] += 1
        if counts[kind] <= MAX_LINES:
            lines.append(line)
    return lines + [
        f"{count - MAX_LINES} more annotations with {kind}"
        for kind, count in counts.items()
        if count > MAX_LINES
    ]


def entry_problems(images: Sequence[Any], categories: Sequence[Any]) -> list[str]:
    """Return at most one line per kind of problem in the lists of images and categories."""
    lines = []
    for name, entries, needed in (
        ("images", images, ("id", "file_name", "width", "height")),
        ("categories", categories, ("id",)),
    ):
        bad = [(e, lacking) for e in entries if (lacking := _lacking(e, needed))]
        if bad:
            lines.append(f"{len(bad)} of the {name} lack {', '.join(bad[0][1])}, e.g. {bad[0][0]}")
            continue
        if other := [entry["id"] for entry in entries if not _is_id(entry["id"])]:
            lines.append(f"{len(other)} ids of {name} are not integers, e.g. {other[0]!r}")
            continue
        if twice := _repeated(entry["id"] for entry in entries):
            lines.append(f"{len(twice)} ids of {name} occur more than once, e.g. {twice[0]}")
    if not lines:
        lines = list(_image_problems(images))
    return [f"{line}; correct the file" for line in lines]


def _image_problems(images: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield at most one line per kind of problem with sizes and file names."""
    if flat := [i for i in images if not _numbers([i["width"], i["height"]], least=1)]:
        yield f"{len(flat)} of the images have no pixels, e.g. {flat[0]}"
    elif odd := [i for i in images if i["width"] % 1 or i["height"] % 1]:
        yield f"{len(odd)} of the images have parts of pixels, e.g. {odd[0]}"
    if bad := [i for i in images if not _is_file_name(i["file_name"])]:
        yield f"{len(bad)} of the images have no file name in their folder, e.g. {bad[0]}"
    elif twice := _repeated(i["file_name"] for i in images):
        yield f"{len(twice)} file names occur more than once, e.g. {twice[0]}"


def record_problems(
    records: Iterable[Any], images: Collection[int], categories: Collection[int]
) -> list[str]:
    """Return one line per broken annotation, up to a limit per kind, given the known ids."""
    ids: list[Any] = []

    def faults() -> Iterator[Fault]:
        for number, record in enumerate(records):
            if isinstance(record, dict):
                ids.append(record.get("id"))
            for kind, text in annotation_faults(record, images, categories):
                yield kind, f"{_name(record, number)}: {text}; correct or remove it"

    return limit_lines(faults()) + limit_lines(
        ("repeated ids", f"annotation {key} occurs more than once; give each an id of its own")
        for key in _repeated(ids)
    )


def geometry_problems(
    records: Sequence[Mapping[str, Any]], sizes: Mapping[int, Size], *, strict: bool
) -> list[str]:
    """Return one line per annotation that does not fit its image, up to a limit per kind.

    Args:
        records: Annotations without ``record_problems``.
        sizes: Height and width by image id; the annotations of other images are not checked.
        strict: Also compare boxes with images, masks and areas.

    Returns:
        The lines.
    """
    return limit_lines(
        (kind, f"{_name(record, number)}: {text}; correct or remove it")
        for number, record in enumerate(records)
        if record["image_id"] in sizes
        for kind, text in geometry_faults(record, sizes[record["image_id"]], strict=strict)
    )


def annotation_faults(
    record: Any, images: Collection[int], categories: Collection[int]
) -> list[Fault]:
    """Return the faults of one annotation's values."""
    if not isinstance(record, dict):
        return [("wrong types", f"{record!r} is not a record of image_id, category_id and bbox")]
    if lacking := _lacking(record, ("image_id", "category_id", "bbox")):
        return [("missing parts", f"{', '.join(lacking)} is missing")]
    return [*_id_faults(record, images, categories), *_value_faults(record)]


def _id_faults(
    record: Mapping[str, Any], images: Collection[int], categories: Collection[int]
) -> Iterator[Fault]:
    # Without repr's quotes, text looks like a number.
    if not _is_id(record["image_id"]) or record["image_id"] not in images:
        yield "unknown images", f"image_id {record['image_id']!r} is not in images"
    if not _is_id(record["category_id"]) or record["category_id"] not in categories:
        text = f"category_id {record['category_id']!r} is not in categories"
        yield "unknown categories", text
    if record.get("id") is not None and not _is_id(record["id"]):
        yield "bad ids", f"id {record['id']!r} is not an integer"


def _value_faults(record: Mapping[str, Any]) -> Iterator[Fault]:
    if "iscrowd" in record and not (
        isinstance(record["iscrowd"], int) and record["iscrowd"] in (0, 1)
    ):
        yield "bad crowd marks", f"iscrowd {record['iscrowd']!r} is not 0 or 1"
    if "area" in record and not _numbers([record["area"]], least=0):
        yield "bad areas", f"area {record['area']!r} is not a number from 0 on"
    box = record["bbox"]
    if not _numbers(box) or len(box) != 4:
        yield "bad boxes", f"bbox {box!r} is not four finite numbers"
    elif min(box[2:]) < 0:
        yield "bad boxes", f"bbox {box} has a negative size; it is x, y, width, height"
    if fault := _mask_fault(record.get("segmentation")):
        yield fault


def _mask_fault(mask: Any) -> Fault | None:
    """Return what is wrong with an annotation's mask, whatever the image."""
    if mask is None:
        return None
    if isinstance(mask, list):
        fault = _polygon_fault(mask)
        return None if fault is None else ("bad polygons", fault)
    if not isinstance(mask, dict):
        return "bad masks", f"segmentation {mask!r:.60} is neither polygons nor run lengths"
    fault = f"run lengths need size and counts, got {', '.join(map(str, mask)) or 'nothing'}"
    return None if {"size", "counts"} <= mask.keys() else ("bad run lengths", fault)


def _polygon_fault(rings: Sequence[Any]) -> str | None:
    """Describe what is wrong; a polygon of fewer than 3 corners next to a whole one is allowed."""
    if not all(map(_numbers, rings)):
        return "a polygon is not a list of finite numbers"
    lengths = [len(ring) for ring in rings]
    if odd := [length for length in lengths if length % 2]:
        return f"a polygon has {odd[0]} numbers, which are not pairs of x and y"
    if lengths and max(lengths) < MIN_COORDINATES:
        return f"a polygon has {lengths[0]} numbers but 3 corners need {MIN_COORDINATES}"
    return None


def _name(record: Any, number: int) -> str:
    """Name an annotation by its id, or by its place if that is no help."""
    key = record.get("id") if isinstance(record, dict) else None
    return f"annotation {key}" if key is not None else f"annotation number {number + 1}, without id"


def _repeated(values: Iterable[Any]) -> list[Any]:
    """Return what occurs more than once among ids or names; other values are reported elsewhere."""
    known = [value for value in values if type(value) in (int, str)]
    if len({*known}) == len(known):  # a set takes less memory than a count of each
        return []
    counts = Counter(known)
    return [value for value, count in counts.items() if count > 1]


def _is_id(value: Any) -> bool:
    """Whether a value is a whole number that arrays can hold; JSON's true and 1.0 are not."""
    return type(value) is int and abs(value) <= MAX_ID


def _is_file_name(name: Any) -> bool:
    """Whether a name stays in its folder."""
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _lacking(entry: Any, needed: Sequence[str]) -> list[str]:
    """Return the keys that an entry lacks, or has without a value."""
    values = entry if isinstance(entry, dict) else {}
    return [key for key in needed if values.get(key) is None]


def _numbers(values: Any, least: float = -math.inf) -> bool:
    """Return whether this is a list of finite numbers, none below the least."""
    if not isinstance(values, list) or not set(map(type, values)) <= {int, float}:
        return False
    try:
        # A finite sum has finite terms; the sum of finite ones may be beyond the largest float.
        finite = math.isfinite(sum(values)) or all(map(math.isfinite, values))
        return finite and (least == -math.inf or min(values) >= least)
    except OverflowError:  # an integer beyond the largest float
        return False
