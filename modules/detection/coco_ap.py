"""COCO's average precision from ground truth and detections, computed by faster-coco-eval.

Equal to pycocotools; torchmetrics' value is 1.7e-5 off.
"""

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np

# Part of the definition: only an image's best 100 detections of a category count.
MAX_DETECTIONS = 100
ANY_AREA = (0.0, 1e10)
NO_MASK = {"size": [1, 1], "counts": b"1"}


def coco_average_precision(
    ground_truth: Mapping[str, Any],
    detections: Sequence[dict[str, Any]],
    *,
    kind: Literal["bbox", "segm"] = "bbox",
) -> dict[str, float]:
    """Return ``ap`` (mean over IoU 0.50:0.95), ``ap50`` and ``ap75`` as fractions.

    Args:
        ground_truth: Content of an ``instances_*.json``: images, annotations, categories.
        detections: ``image_id``, ``category_id``, ``score`` and ``bbox`` (x, y, width, height in
            pixels) or, for ``segm``, ``segmentation`` as compressed run lengths.
        kind: Whether to measure the overlap of boxes or of masks.

    Returns:
        The fractions, all 0 without any detection.

    Raises:
        ValueError: If there is no annotation to find, or a detection has a box or score that is
            not finite or an unknown image id.
    """
    if not any(not a.get("iscrowd", 0) for a in ground_truth["annotations"]):
        raise ValueError("the evaluation set has no annotated object: its precision is undefined")
    _check_detections(ground_truth, detections, kind)
    if not detections:
        return {"ap": 0.0, "ap50": 0.0, "ap75": 0.0}
    precision = _precision(ground_truth, detections, kind)
    return {
        "ap": _mean(precision),
        "ap50": _mean(precision[0]),
        "ap75": _mean(precision[5]),
    }


def _check_detections(
    ground_truth: Mapping[str, Any], detections: Sequence[dict[str, Any]], kind: str
) -> None:
    known = {image["id"] for image in ground_truth["images"]}
    if unknown := {d["image_id"] for d in detections} - known:
        raise ValueError(f"detections for {len(unknown)} unknown image ids, e.g. {min(unknown)}")
    rows = [(d["score"], *d["bbox"]) if kind == "bbox" else (d["score"],) for d in detections]
    if rows and not (finite := np.isfinite(np.asarray(rows, dtype=np.float64)).all(1)).all():
        bad = detections[int(np.argmin(finite))]
        keys = [key for key in ("image_id", "category_id", "score", "bbox") if key in bad]
        shown = {key: bad[key] for key in keys}
        raise ValueError(f"a detection is not finite: {shown}; the network has diverged")


def _precision(
    ground_truth: Mapping[str, Any], detections: Sequence[dict[str, Any]], kind: str
) -> np.ndarray:
    """Return the precision by IoU threshold (10), recall (101) and category, -1 without objects."""
    from faster_coco_eval import COCO, COCOeval_faster

    truths = ground_truth["annotations"]
    with _no_collection():
        shared = _pairs(truths) & _pairs(detections) if kind == "segm" else None
        # Ids from 1: the library ignores an object with id 0, and of equal ids keeps the last.
        annotations = [_record(a, shared, number) for number, a in enumerate(truths, start=1)]
        truth = COCO({**ground_truth, "annotations": annotations})
        records = [
            _record(d, shared, number) | {"iscrowd": 0, "area": _area(d, kind)}
            for number, d in enumerate(detections, 1)
        ]
        detected = COCO({**ground_truth, "annotations": records})
        evaluation = COCOeval_faster(truth, detected, iouType=kind, print_function=_silent)
        # One worker: its threads only wait for each other, as overlaps hold Python's lock.
        evaluation.rle_iou_max_workers = 1
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [list(ANY_AREA)], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
        return np.asarray(evaluation.eval["precision"])[..., 0, 0]


def _pairs(records: Sequence[Mapping[str, Any]]) -> set[tuple[int, int]]:
    """Return the image and category of every record."""
    return {(record["image_id"], record["category_id"]) for record in records}


def _record(
    record: Mapping[str, Any], shared: set[tuple[int, int]] | None, number: int
) -> dict[str, Any]:
    """Copy an annotation or detection, as the library modifies its input.

    A mask that is compared with nothing is dropped: an image's objects of a category need theirs
    only where there are detections of it too, and vice versa. Drawing and unpacking all masks is
    most of the work.
    """
    copy = {**record, "id": number}
    if not isinstance(record.get("area"), int | float):
        copy["area"] = 1.0
    if shared is not None and (record["image_id"], record["category_id"]) not in shared:
        copy["segmentation"] = NO_MASK
    return copy


def _area(detection: Mapping[str, Any], kind: str) -> float:
    """Return a box's area: outside ``ANY_AREA`` an unmatched box is not a false positive.

    A mask's area is limited by its image, so it is not computed.
    """
    return detection["bbox"][2] * detection["bbox"][3] if kind == "bbox" else 1.0


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector from scanning a million new records again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _mean(precision: np.ndarray) -> float:
    """Average over categories with objects; others have -1."""
    return float(precision[precision > -1].mean())


def _silent(*_: Any, **__: Any) -> None:
    """Discard the library's progress lines."""
