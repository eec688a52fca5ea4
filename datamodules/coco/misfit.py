"""Find misfits: of a box or mask and its image, a box and its mask, a box and its area."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from datamodules.coco.geometry import Bounds, Size, overlap, polygon_bounds, run_bounds, runs_of

MIN_COORDINATES = 6  # of a polygon: x and y of 3 corners
EDGE = 2.0  # pixels that a box may reach over its image by rounding
Fault = tuple[str, str]
"""Kind and sentence."""
_KIND = "it is x, y, width and height in pixels"


def geometry_faults(record: Mapping[str, Any], size: Size, *, strict: bool) -> Iterator[Fault]:
    """Yield what does not fit the image, or box and mask that do not fit each other."""
    box, mask, (height, width) = record["bbox"], record.get("segmentation"), size
    image = f"its image of {width} x {height} pixels"
    bounds: Bounds | None = None
    if isinstance(mask, dict):
        runs = runs_of(mask["counts"])
        if mask["size"] != [height, width]:
            text = f"its run lengths have size {mask['size']!r:.60}, not [height, width] of {image}"
            yield "bad run lengths", text
        elif runs is None or sum(runs) != height * width:
            total = "nothing readable" if runs is None else f"{sum(runs)} pixels"
            yield "bad run lengths", f"its run lengths cover {total} of {image}"
        else:
            bounds = run_bounds(runs, height)
    elif rings := drawable(record):
        bounds = polygon_bounds(rings)
        if not (-width <= bounds[0] <= bounds[2] <= 2 * width) or not (
            -height <= bounds[1] <= bounds[3] <= 2 * height
        ):
            yield "bad polygons", f"its polygons reach from {bounds[:2]} to {bounds[2:]} in {image}"
            return
    if strict and (fault := _box_fault(box, bounds, record.get("area"), size)):
        yield "bad boxes", f"bbox {box} {fault}"


def _box_fault(box: Sequence[float], mask: Bounds | None, area: Any, size: Size) -> str | None:
    """Say how a box does not fit its image, its mask's bounds or its area."""
    (x, y, width, height), (image_height, image_width) = box, size
    if min(x, y) < -EDGE or x + width > image_width + EDGE or y + height > image_height + EDGE:
        return f"leaves its image of {image_width} x {image_height} pixels; {_KIND}"
    if max(box) <= 1 < min(size) and any(value % 1 for value in box):
        return f"looks like fractions of the image; {_KIND}"
    if area is not None and area > 1.01 * image_width * image_height + 1:
        return f"has area {area}, more than its image of {image_width} x {image_height} pixels"
    as_size, as_corners = (x, y, x + width, y + height), (x, y, width, height)
    differ = max(x, y) > EDGE  # nearer to the origin than that, both mean the same
    if mask is not None:
        found = overlap(as_size, mask)
        if differ and found < 0.95 and overlap(as_corners, mask) > max(0.8, found + 0.05):
            return f"looks like two corners, as its mask ends at {mask[2:]}; {_KIND}"
        if found < 0.3 and min(mask[2] - mask[0], mask[3] - mask[1], width, height) > EDGE:
            return f"is not around its mask, which reaches from {mask[:2]} to {mask[2:]}"
    elif differ and area and width > x and height > y:
        wrong = (width - x) * (height - y)
        if abs(area - wrong) <= 0.01 * area and abs(area - width * height) > 0.05 * area:
            return f"looks like two corners, as its area is {area}; {_KIND}"
    return None


def drawable(record: Mapping[str, Any]) -> list[list[float]]:
    """Return an annotation's polygons with at least 3 corners; none for run lengths."""
    rings = record.get("segmentation")
    return (
        [ring for ring in rings if len(ring) >= MIN_COORDINATES] if isinstance(rings, list) else []
    )
