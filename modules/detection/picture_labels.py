"""Places for the captions of boxes, none of which covers another."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

Corners = tuple[float, float, float, float]


class Label(NamedTuple):
    """Where a caption goes: its upper left corner and its size, in pixels of the image."""

    x: float
    y: float
    width: float
    height: float


def place_labels(
    boxes: Sequence[Corners], sizes: Sequence[tuple[float, float]], image: tuple[int, int]
) -> list[Label | None]:
    """Place a caption at each box, inside the image and clear of the captions before it.

    Args:
        boxes: x1, y1, x2, y2.
        sizes: Width and height of each caption.
        image: Width and height of the image.

    Returns:
        The places; None where there is no room left.
    """
    places: list[Label | None] = []
    for box, size in zip(boxes, sizes, strict=True):
        free = (
            place
            for place in _candidates(box, size, image)
            if not any(_touch(place, other) for other in places if other is not None)
        )
        places.append(next(free, None))
    return places


def _candidates(box: Corners, size: tuple[float, float], image: tuple[int, int]) -> Iterator[Label]:
    """Yield places by preference: above the box, below it, inside at its top, then further down."""
    (x1, y1, x2, y2), (width, height) = box, size
    rights = (x1, x2 - width)
    rows = [y1 - height, y2, y1, y2 - height]
    rows += [y1 + k * height for k in range(1, int(image[1] / height) + 1)]
    for y in rows:
        for x in rights:
            left = min(max(x, 0.0), max(image[0] - width, 0.0))
            if 0 <= y <= image[1] - height:
                yield Label(left, y, width, height)


def _touch(one: Label, other: Label) -> bool:
    apart = (
        one.x + one.width <= other.x
        or other.x + other.width <= one.x
        or one.y + one.height <= other.y
        or other.y + other.height <= one.y
    )
    return not apart
