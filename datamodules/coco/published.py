"""Published facts of COCO 2017: counts by split, and the ids of its categories.

Source: cocodataset.org (118,287 and 5,000 images, 886,284 objects of both splits); cocodataset/
cocoapi issue 117 (annotations with and without crowds), instances_*2017.json of 2017-09-02.
"""

from typing import Any

COUNTS = {
    "train": {
        "images": 118_287,
        "annotated_images": 117_266,
        "annotations": 860_001,
        "objects": 849_949,
    },
    "val": {
        "images": 5_000,
        "annotated_images": 4_952,
        "annotations": 36_781,
        "objects": 36_335,
    },
}
CATEGORY_IDS = [n for n in range(1, 91) if n not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
_WORDS = {
    "images": "images",
    "annotated_images": "images with annotations",
    "annotations": "annotations",
    "objects": "objects that are no crowd",
}


def count_differences(counts: dict[str, Any]) -> list[str]:
    """Return what a manifest counts otherwise than COCO's: the categories, and the first of the
    counts of each split."""
    ids = counts["categories"]
    lines = []
    if len(ids) != len(CATEGORY_IDS):
        lines.append(f"{len(ids)} categories instead of {len(CATEGORY_IDS)}")
    elif ids != CATEGORY_IDS:
        lines.append("categories with other ids")
    for split, expected in COUNTS.items():
        kind = "training" if split == "train" else "evaluation"
        differing = (name for name, number in expected.items() if counts[split][name] != number)
        if (name := next(differing, None)) is not None:
            number = expected[name]
            lines.append(f"{counts[split][name]:,} {kind} {_WORDS[name]} instead of {number:,}")
    return lines


def are_published(num_images: int, num_annotations: int, num_categories: int) -> bool:
    """Whether an annotation file has as many entries as one of COCO's own."""
    return num_categories == len(CATEGORY_IDS) and any(
        (num_images, num_annotations) == (split["images"], split["annotations"])
        for split in COUNTS.values()
    )
