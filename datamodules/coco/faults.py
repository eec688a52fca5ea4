"""Checks of the entries of a COCO annotation file, reported in plain words."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MAX_LINES = 10  # per kind of problem; the rest is counted
MIN_COORDINATES = 6  # of a polygon: x and y of 3 corners


def limit_lines(problems: Iterable[tuple[str, str]]) -> list[str]:
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
        if other := [entry["id"] for entry in entries if not isinstance(entry["id"], int)]:
            lines.append(f"{len(other)} ids of {name} are not integers, e.g. {other[0]!r}")
            continue
        counts = Counter(entry["id"] for entry in entries)
        if twice := [key for key, count in counts.items() if count > 1]:
            lines.append(f"{len(twice)} ids of {name} occur more than once, e.g. {twice[0]}")
    if not lines and (
        flat := [i for i in images if not _numbers([i["width"], i["height"]], least=1)]
    ):
        lines.append(f"{len(flat)} of the images have no pixels, e.g. {flat[0]}")
    return [f"{line}; correct the file" for line in lines]


def annotation_faults(
    record: Mapping[str, Any], position: Mapping[Any, int], label_of: Mapping[Any, int]
) -> list[tuple[str, str]]:
    """Return kind and sentence of each fault of one annotation."""
    if lacking := _lacking(record, ("image_id", "category_id", "bbox")):
        return [("missing parts", f"{', '.join(lacking)} is missing")]
    faults = []
    # Without repr's quotes, text looks like a number.
    if record["image_id"] not in position:
        faults.append(("unknown images", f"image_id {record['image_id']!r} is not in images"))
    if record["category_id"] not in label_of:
        text = f"category_id {record['category_id']!r} is not in categories"
        faults.append(("unknown categories", text))
    if len(record["bbox"]) != 4 or not _numbers(record["bbox"]):
        faults.append(("bad boxes", f"bbox {record['bbox']} is not four finite numbers"))
    rings = record.get("segmentation")
    if isinstance(rings, list) and (fault := _polygon_fault(rings)):
        faults.append(("bad polygons", fault))
    return faults


def drawable(record: Mapping[str, Any]) -> list[list[float]]:
    """Return an annotation's polygons with at least 3 corners; none for run lengths."""
    rings = record.get("segmentation")
    return (
        [ring for ring in rings if len(ring) >= MIN_COORDINATES] if isinstance(rings, list) else []
    )


def _polygon_fault(rings: Sequence[Any]) -> str | None:
    """Describe what is wrong; a polygon of fewer than 3 corners next to a whole one is allowed."""
    if any(not isinstance(ring, list) or not _numbers(ring) for ring in rings):
        return "a polygon is not a list of finite numbers"
    lengths = [len(ring) for ring in rings]
    if odd := [length for length in lengths if length % 2]:
        return f"a polygon has {odd[0]} numbers, which are not pairs of x and y"
    if lengths and max(lengths) < MIN_COORDINATES:
        return f"a polygon has {lengths[0]} numbers but 3 corners need {MIN_COORDINATES}"
    return None


def _lacking(entry: Any, needed: Sequence[str]) -> list[str]:
    """Return the keys that an entry lacks, or has without a value."""
    values = entry if isinstance(entry, dict) else {}
    return [key for key in needed if values.get(key) is None]


def _numbers(values: Sequence[Any], least: float = -math.inf) -> bool:
    """Return whether all are finite numbers, none below the least."""
    try:
        return all(map(math.isfinite, values)) and (least == -math.inf or min(values) >= least)
    except TypeError:
        return False
