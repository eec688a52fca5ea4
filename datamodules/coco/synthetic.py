"""COCO 2017 without its files, for ``speed --synthetic``: its counts, and evaluation images."""

from typing import Any

import torch

from datamodules.coco.published import CATEGORY_IDS, COUNTS

ORIGINAL = (480, 640)  # height and width; most images of COCO are 640 wide, 480 high
OBJECTS = 7  # of an image, as COCO has on average


def manifest() -> dict[str, Any]:
    """Return the facts that ``store.read_manifest`` returns for COCO itself."""
    train, val = ({**COUNTS[split], "without_mask": 0} for split in ("train", "val"))
    # The images with a box of more than a pixel; the few others are not worth a count of their own.
    train["images_with_usable_box"] = train["annotated_images"]
    return {"train": train, "val": val, "categories": list(CATEGORY_IDS)}


def truth(images: int) -> dict[str, Any]:
    """Return the content of an annotation file: ``images`` of a few rectangular objects each."""
    height, width = ORIGINAL
    generator = torch.Generator().manual_seed(0)
    annotations = []
    for number in range(images * OBJECTS):
        x, y, w, h = (torch.rand(4, generator=generator) * 0.4 + 0.1).tolist()
        left, top, wide, high = x * width, y * height, w * width, h * height
        right, bottom = left + wide, top + high
        annotations.append(
            {
                "id": number + 1,
                "image_id": number // OBJECTS,
                "category_id": CATEGORY_IDS[number % len(CATEGORY_IDS)],
                "bbox": [left, top, wide, high],
                "area": wide * high,
                "iscrowd": 0,
                "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
            }
        )
    return {
        "images": [{"id": n, "height": height, "width": width} for n in range(images)],
        "annotations": annotations,
        "categories": [{"id": n, "name": str(n)} for n in CATEGORY_IDS],
    }
