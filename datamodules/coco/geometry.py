"""Bounds of masks, and COCO's run lengths, as the checks of annotations need them."""

from collections.abc import Sequence
from typing import Any

Size = tuple[int, int]
"""Height and width of an image in pixels."""
Bounds = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels."""


def overlap(first: Bounds, second: Bounds) -> float:
    """Return the intersection over union of two boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0.0) * max(height, 0.0)
    whole = _area(first) + _area(second) - shared
    return shared / whole if whole > 0 else 0.0


def _area(box: Bounds) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def polygon_bounds(rings: Sequence[Sequence[float]]) -> Bounds:
    """Return what encloses polygons of x and y in turn."""
    if len(rings) > 1:
        rings = [[number for ring in rings for number in ring]]
    x, y = rings[0][::2], rings[0][1::2]
    return min(x), min(y), max(x), max(y)


def runs_of(counts: Any) -> list[int] | None:
    """Return run lengths from a list, or from COCO's compressed text; None if they are neither.

    Source: cocodataset/cocoapi, common/maskApi.c: six bits a character from "0" on, of which the
    sixth says that another follows; from the third on the difference to the last but one.
    """
    if isinstance(counts, list):
        return counts if all(type(run) is int and run >= 0 for run in counts) else None
    if not isinstance(counts, str):
        return None
    runs: list[int] = []
    value = bits = 0
    for code in counts.encode(errors="replace"):
        part = code - ord("0")
        if not 0 <= part < 64 or bits > 30:
            return None
        value |= (part & 31) << bits
        bits += 5
        if part & 32:
            continue
        if part & 16:
            value -= 1 << bits
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = bits = 0
    return runs if not bits and min(runs, default=-1) >= 0 else None


def run_bounds(runs: Sequence[int], height: int) -> Bounds | None:
    """Return what encloses the mask of run lengths down the columns; None for an empty mask."""
    boxes, start = [], 0
    for number, run in enumerate(runs):
        end = start + run
        if number % 2 and run:
            first, last = start // height, (end - 1) // height
            top, bottom = (start % height, (end - 1) % height) if first == last else (0, height - 1)
            boxes.append((first, top, last + 1, bottom + 1))
        start = end
    if not boxes:
        return None
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return min(x1), min(y1), max(x2), max(y2)
