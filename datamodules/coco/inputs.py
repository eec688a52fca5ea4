"""Images from outside the data set, and detections in COCO's form."""

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from datamodules.coco.image_check import open_rgb
from datamodules.common.inputs import input_file, without_remedy

WHAT = "an image (JPEG, PNG ...)"
LEAST_SCORE = 0.3  # of a detection that is counted on the screen, as in the picture


def read_rgb(source: str) -> Image.Image:
    """Read an image.

    Args:
        source: Image file.

    Returns:
        A Pillow image in RGB.

    Raises:
        OSError: If there is no such file.
        ValueError: If it cannot be decoded.
    """
    try:
        return open_rgb(input_file(source, WHAT))
    except ValueError as error:
        raise without_remedy(error) from error


def records(
    prediction: Mapping[str, Any], categories: Sequence[Mapping[str, Any]], size: Sequence[int]
) -> list[dict[str, Any]]:
    """Return detections as COCO's result records, best first, without the image's id.

    Args:
        prediction: ``boxes`` (N, 4) x, y, width, height, ``scores``, ``labels`` from 1, and
            ``counts``: compressed run lengths, or None.
        categories: Of the annotation file, in the order of the labels.
        size: Height and width of the image.

    Returns:
        One record per detection.
    """
    found = []
    for n in (-prediction["scores"]).argsort(kind="stable"):
        category = categories[int(prediction["labels"][n]) - 1]
        record = {
            "category_id": category["id"],
            "category": str(category.get("name", category["id"])),
            "score": round(float(prediction["scores"][n]), 4),
            "bbox": [round(float(side), 2) for side in prediction["boxes"][n]],
        }
        if prediction["counts"] is not None:
            text = prediction["counts"][n].decode("ascii")
            record["segmentation"] = {"size": list(size), "counts": text}
        found.append(record)
    return found


def in_words(found: Sequence[Mapping[str, Any]]) -> str:
    """Return what was found, such as ``2 dog, 1 cat (score at least 0.3)``."""
    counts: dict[str, int] = {}
    for record in found:
        if record["score"] >= LEAST_SCORE:
            counts[record["category"]] = counts.get(record["category"], 0) + 1
    what = ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing"
    return f"{what} (score at least {LEAST_SCORE:g})"
