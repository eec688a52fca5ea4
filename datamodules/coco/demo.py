"""Generated scenes of shapes in COCO's layout, for SSD and Mask R-CNN demos.

``train2017/*.jpg``, ``val2017/*.jpg`` and ``annotations/instances_*2017.json`` with everything COCO
has: gaps between category ids, polygons, a crowd region as run lengths, images without annotations,
images of other sizes and a box without height.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

VERSION = "1"
SEED = 20210521  # fixed: the data set is the same on every machine

# Category id, name, colour (RGB). Ids leave gaps, as COCO's 80 ids in 1..90 do.
SHAPES = (
    (1, "rectangle", (200, 50, 50)),
    (3, "triangle", (50, 170, 60)),
    (90, "ellipse", (60, 70, 200)),
)
COLOUR_SPREAD, PIXEL_NOISE = 20, 8.0
ODD_SIZES = 10  # images of the train set that are not square
EMPTY = {"train": 5, "val": 2}  # images without annotations


def write_scenes(
    folder: Path,
    *,
    image_size: int = 300,
    num_train: int = 160,
    num_val: int = 40,
    side: tuple[float, float] = (0.2, 0.5),
) -> None:
    """Write the data set into an empty directory; ``side`` is the range of a shape's share."""
    (folder / "annotations").mkdir()
    for stream, (split, count) in enumerate((("train", num_train), ("val", num_val))):
        (folder / f"{split}2017").mkdir()
        rng = np.random.default_rng([SEED, stream, image_size])
        content = _split(folder / f"{split}2017", rng, split, count, image_size, side)
        path = folder / "annotations" / f"instances_{split}2017.json"
        path.write_text(json.dumps(content))


def _split(
    folder: Path,
    rng: np.random.Generator,
    split: str,
    count: int,
    image_size: int,
    side: tuple[float, float],
) -> dict[str, Any]:
    """Draw one split and return its annotation file's content."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(count + EMPTY[split]):
        width, height = _image_size(rng, image_size, odd=number % (count // ODD_SIZES or 1) == 1)
        image_id = 1 + number * 7 + int(rng.integers(7))  # ids with gaps
        pixels, shapes = _scene(rng, width, height, side, empty=number >= count)
        name = f"{image_id:012d}.jpg"
        Image.fromarray(pixels).save(folder / name, quality=92)
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for shape in shapes:
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image_id, "iscrowd": 0, **shape}
            )
    first = images[0]
    annotations.append(_crowd(first, len(annotations) + 1))
    if split == "train":
        annotations.append(_flat_box(images[1], len(annotations) + 1))
    categories = [{"id": number, "name": name} for number, name, _ in SHAPES]
    return {"images": images, "annotations": annotations, "categories": categories}


def _image_size(rng: np.random.Generator, size: int, *, odd: bool) -> tuple[int, int]:
    """Return width and height; odd ones are up to a third longer one way."""
    if not odd:
        return size, size
    longer = int(size * rng.uniform(1.1, 1.34))
    return (longer, size) if rng.random() < 0.5 else (size, longer)


def _scene(
    rng: np.random.Generator,
    width: int,
    height: int,
    side: tuple[float, float],
    *,
    empty: bool,
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Draw up to two shapes that do not overlap; returns (H, W, 3) uint8 and their records."""
    image = Image.new("RGB", (width, height), tuple(int(c) for c in rng.integers(90, 200, 3)))
    draw = ImageDraw.Draw(image)
    boxes: list[tuple[float, float, float, float]] = []
    records = []
    for _ in range(0 if empty else int(rng.integers(1, 3))):
        box = _free_box(rng, width, height, side, boxes)
        if box is None:
            continue
        boxes.append(box)
        category, name, colour = SHAPES[int(rng.integers(len(SHAPES)))]
        outline = _outline(name, box)
        shade = np.array(colour) + rng.integers(-COLOUR_SPREAD, COLOUR_SPREAD + 1, 3)
        draw.polygon([tuple(point) for point in outline.tolist()], fill=tuple(shade.tolist()))
        records.append(_annotation(category, outline))
    noise = rng.normal(0, PIXEL_NOISE, (height, width, 3))
    return np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8), records


def _free_box(
    rng: np.random.Generator,
    width: int,
    height: int,
    side: tuple[float, float],
    taken: list[tuple[float, float, float, float]],
) -> tuple[float, float, float, float] | None:
    """Draw x1, y1, x2, y2 that touch no other box; None after twenty failures."""
    shorter = min(width, height)
    for _ in range(20):
        w, h = rng.uniform(*side, 2) * shorter
        x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
        box = (x, y, x + w, y + h)
        if all(box[2] < o[0] or o[2] < box[0] or box[3] < o[1] or o[3] < box[1] for o in taken):
            return box
    return None


def _outline(name: str, box: tuple[float, float, float, float]) -> np.ndarray:
    """Return the corners (P, 2) of a shape that fills a box."""
    x1, y1, x2, y2 = box
    if name == "rectangle":
        points = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
    elif name == "triangle":
        points = [((x1 + x2) / 2, y1), (x2, y2), (x1, y2)]
    else:
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        xs = (x1 + x2) / 2 + (x2 - x1) / 2 * np.cos(angles)
        ys = (y1 + y2) / 2 + (y2 - y1) / 2 * np.sin(angles)
        return np.round(np.stack([xs, ys], 1), 2)
    return np.round(np.array(points), 2)


def _annotation(category: int, outline: np.ndarray) -> dict[str, Any]:
    """Return COCO's record of one shape."""
    low, high = outline.min(0), outline.max(0)
    x, y = outline[:, 0], outline[:, 1]
    area = 0.5 * abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1)))
    return {
        "category_id": category,
        "segmentation": [outline.reshape(-1).tolist()],
        "bbox": [*low.tolist(), *np.round(high - low, 2).tolist()],
        "area": area,
    }


def _crowd(image: dict[str, Any], number: int) -> dict[str, Any]:
    """Return a crowd region in the image's top left corner, as uncompressed run lengths."""
    width, height, side = image["width"], image["height"], 12
    counts = [0]
    for _ in range(side):  # columns: `side` pixels of crowd, the rest not
        counts += [side, height - side]
    counts[-1] += height * (width - side)
    return {
        "id": number,
        "image_id": image["id"],
        "category_id": SHAPES[0][0],
        "iscrowd": 1,
        "segmentation": {"size": [height, width], "counts": counts},
        "bbox": [0.0, 0.0, float(side), float(side)],
        "area": float(side * side),
    }


def _flat_box(image: dict[str, Any], number: int) -> dict[str, Any]:
    """Return a box of height 0, as COCO's training annotations 918 and 2206849 have."""
    return {
        "id": number,
        "image_id": image["id"],
        "category_id": SHAPES[1][0],
        "iscrowd": 0,
        "segmentation": [[10.0, 20.0, 30.0, 20.0, 20.0, 20.0]],
        "bbox": [10.0, 20.0, 20.0, 0.0],
        "area": 0.0,
    }
