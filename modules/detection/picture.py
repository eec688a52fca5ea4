"""A picture of a detector's results next to the ground truth, to judge by eye.

Letters: N detections, H W pixels. Boxes are corners x1, y1, x2, y2 in pixels of the image.
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modules.detection.picture_labels import Label, place_labels

WIDTH_INCHES, DPI = 8.0, 150
# Of a detection that is drawn, where no ground truth tells a better threshold.
MIN_SCORE = 0.3
MATCHING_OVERLAP = 0.5  # intersection over union
COLOURS = ("#e6194b", "#0b8f3a", "#3457d5", "#f58231", "#911eb4", "#008b8b", "#b8860b", "#d02090")
FONT_POINTS = 7


class DetectionExample(NamedTuple):
    """One image with its detections."""

    image: np.ndarray  # (H, W, 3) uint8
    box: np.ndarray  # (N, 4)
    score: np.ndarray  # (N,)
    label: np.ndarray  # (N,) from 1
    mask: np.ndarray | None  # (N, H, W) bool
    number: int = 0  # of the image in the ground truth


class Truth(NamedTuple):
    """The objects that an image really has."""

    box: np.ndarray  # (G, 4)
    label: np.ndarray  # (G,) from 1
    # Per object its polygons, (corners, 2); none for a detector without masks.
    outlines: Sequence[Sequence[np.ndarray]]


def truth_of(example: DetectionExample, content: Mapping[str, Any]) -> Truth:
    """Return an example's objects from the content of an annotation file, without crowds.

    Args:
        example: Its image may have another size than the file's.
        content: ``images`` in the order of ``index``, ``annotations``, ``categories``.

    Returns:
        The objects in pixels of the example's image.
    """
    record = content["images"][example.number]
    height, width = example.image.shape[:2]
    factor = np.array([width / record["width"], height / record["height"]])
    numbers = {category["id"]: n for n, category in enumerate(content["categories"], 1)}
    own = [
        one
        for one in content["annotations"]
        if one["image_id"] == record["id"] and not one.get("iscrowd")
    ]
    corners = np.array([one["bbox"] for one in own], float).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    outlines = [
        [np.reshape(ring, (-1, 2)) * factor for ring in one["segmentation"]]
        if example.mask is not None and isinstance(one.get("segmentation"), list)
        else []
        for one in own
    ]
    labels = np.array([numbers[one["category_id"]] for one in own], int)
    return Truth(corners * np.tile(factor, 2), labels, outlines)


def best_threshold(examples: Sequence[DetectionExample], truths: Sequence[Truth]) -> float:
    """Return the score above which detections fit the truth best, by the F1 of these images."""
    scores, hits = [], []
    for example, truth in zip(examples, truths, strict=True):
        scores.append(example.score)
        hits.append(_hits(example, truth))
    score, hit = np.concatenate(scores), np.concatenate(hits)
    if not hit.any():
        return MIN_SCORE
    order = np.argsort(-score, kind="stable")
    objects = sum(len(truth.label) for truth in truths)
    f1 = 2 * np.cumsum(hit[order]) / (np.arange(1, len(order) + 1) + objects)
    return float(score[order][f1.argmax()])


def _hits(example: DetectionExample, truth: Truth) -> np.ndarray:
    """Return for each detection whether it finds an object that none before it has found."""
    hit = np.zeros(len(example.score), bool)
    found: set[int] = set()
    for n in np.argsort(-example.score, kind="stable"):
        overlap = _overlaps(example.box[n], truth.box) * (truth.label == example.label[n])
        overlap[list(found)] = 0
        if overlap.size and overlap.max() >= MATCHING_OVERLAP:
            hit[n] = True
            found.add(int(overlap.argmax()))
    return hit


def _overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return a box's intersection over union with others."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.prod(np.clip(high - low, 0, None), 1)
    areas = np.prod(others[:, 2:] - others[:, :2], 1) + np.prod(box[2:] - box[:2])
    return shared / np.maximum(areas - shared, 1e-9)


def save_detections(
    path: Path,
    examples: Sequence[DetectionExample],
    names: Sequence[str],
    title: str,
    truths: Sequence[Truth] | None = None,
) -> None:
    """Write a grid of images with boxes, masks, scores and class names.

    Args:
        path: PNG file to write.
        examples: Images with detections; without any, nothing is written.
        names: Class names by label - 1.
        title: Above the grid; a line on what is drawn follows it.
        truths: Objects of each image, drawn to the left of its detections.
    """
    if not examples:
        return
    from matplotlib.figure import Figure

    least = MIN_SCORE if truths is None else best_threshold(examples, truths)
    per_row = min(2, len(examples))
    columns = per_row * (1 if truths is None else 2)
    side = WIDTH_INCHES / columns
    ratios = [one.image.shape[0] / one.image.shape[1] for one in examples]
    heights = [
        side * min(max(ratios[first : first + per_row]), 1.5) + 0.2
        for first in range(0, len(ratios), per_row)
    ]
    figure = Figure(figsize=(WIDTH_INCHES, 0.8 + sum(heights)), layout="constrained")
    figure.suptitle(f"{title}\n{_explanation(examples, least, truths)}", fontsize=10)
    shape = len(heights), columns
    axes = iter(figure.subplots(*shape, squeeze=False, height_ratios=heights).ravel())
    for number, one in enumerate(examples):
        if truths is not None:
            _draw_truth(next(axes), one.image, truths[number], names, side)
        _draw_found(next(axes), one, names, least, side)
    for axis in axes:
        axis.axis("off")
    figure.savefig(path, dpi=DPI)


def _explanation(
    examples: Sequence[DetectionExample], least: float, truths: Sequence[Truth] | None
) -> str:
    found = sum(int((one.score >= least).sum()) for one in examples)
    if truths is None:
        best = max((float(one.score.max()) for one in examples if len(one.score)), default=0.0)
        none = f"; the best score is {best:.2f}" if not found else ""
        return f"detections with a score of at least {least:g}{none}"
    objects = sum(len(truth.label) for truth in truths)
    hits = sum(
        int((_hits(one, truth) & (one.score >= least)).sum())
        for one, truth in zip(examples, truths, strict=True)
    )
    text = (
        f"left: ground truth, right: detections with a score of at least {least:.2f}, which fits "
        f"these images best; {hits} of {objects} objects found, {found - hits} false detections"
    )
    return textwrap.fill(text, 105)


def _draw_truth(
    axis: Any, image: np.ndarray, truth: Truth, names: Sequence[str], side: float
) -> None:
    from matplotlib.patches import Polygon

    axis.imshow(image)
    for outlines, label in zip(truth.outlines, truth.label, strict=True):
        for ring in outlines:
            colour = _colour(label)
            axis.add_patch(Polygon(ring, facecolor=colour, alpha=0.5, linewidth=0))
    captions = [names[label - 1] for label in truth.label]
    _draw_boxes(axis, image.shape[:2], truth.box, truth.label, captions, side)
    axis.set_title("ground truth", fontsize=8)


def _draw_found(
    axis: Any, one: DetectionExample, names: Sequence[str], least: float, side: float
) -> None:
    drawn = np.flatnonzero(one.score >= least)
    axis.imshow(_with_masks(one, drawn))
    captions = [f"{names[one.label[n] - 1]} {one.score[n]:.2f}" for n in drawn]
    _draw_boxes(axis, one.image.shape[:2], one.box[drawn], one.label[drawn], captions, side)
    axis.set_title("detections" if len(drawn) else "no detections", fontsize=8)


def _draw_boxes(
    axis: Any,
    size: tuple[int, ...],
    boxes: np.ndarray,
    labels: np.ndarray,
    captions: Sequence[str],
    side: float,
) -> None:
    """Draw the parts of boxes inside the image, with captions that cover no other caption."""
    from matplotlib.patches import Rectangle

    height, width = size
    axis.axis("off")
    axis.set_xlim(-0.5, width - 0.5)
    axis.set_ylim(height - 0.5, -0.5)
    shown = []
    for box, label, text in zip(boxes, labels, captions, strict=True):
        x1, y1, x2, y2 = np.clip(box, 0, [width - 1, height - 1] * 2).tolist()
        if x1 == x2 or y1 == y2:
            continue
        patch = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, linewidth=1.3)
        patch.set_edgecolor(_colour(label))
        axis.add_patch(patch)
        shown.append(((x1, y1, x2, y2), text, _colour(label)))
    # An inch of the panel has this many pixels of the image; a letter is about 0.62 of its height.
    line = FONT_POINTS / 72 * 1.5 * max(width, height) / side
    sizes = [(0.62 / 1.5 * line * (len(text) + 1), line) for _, text, _ in shown]
    for place, (_, text, colour) in zip(
        place_labels([box for box, _, _ in shown], sizes, (width, height)), shown, strict=True
    ):
        if place is not None:
            _write(axis, place, text, colour)


def _write(axis: Any, place: Label, text: str, colour: str) -> None:
    from matplotlib.patches import Rectangle

    axis.add_patch(
        Rectangle((place.x, place.y), place.width, place.height, facecolor=colour, linewidth=0)
    )
    axis.text(
        place.x + place.width / 2,
        place.y + place.height / 2,
        text,
        horizontalalignment="center",
        verticalalignment="center_baseline",
        color="white",
        fontsize=FONT_POINTS,
        parse_math=False,
        clip_on=True,
    )


def _with_masks(one: DetectionExample, drawn: np.ndarray) -> np.ndarray:
    """Blend every drawn detection's mask into the image."""
    image = one.image.astype(np.float32)
    if one.mask is not None:
        for n in drawn:
            colour = _colour(one.label[n])
            rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], np.float32)
            image[one.mask[n]] = 0.5 * image[one.mask[n]] + 0.5 * rgb
    return image.astype(np.uint8)


def _colour(label: int) -> str:
    return COLOURS[label % len(COLOURS)]
