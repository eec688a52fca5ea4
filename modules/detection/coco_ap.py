"""COCO's average precision from ground truth and detections, computed by faster-coco-eval."""

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
    """Average precision over all images and categories of an annotation file.

    Args:
        ground_truth: Content of an ``instances_*.json``: images, annotations, categories. Crowd
            regions and images without annotations are handled as COCO does.
        detections: ``image_id``, ``category_id``, ``score`` and ``bbox`` (x, y, width, height in
            pixels) or, for ``segm``, ``segmentation`` as compressed run lengths.
        kind: Whether overlap is measured between boxes or between masks.

    Returns:
        ``ap`` (mean over IoU 0.50:0.95), ``ap50`` and ``ap75``: fractions. All 0 where nothing
        was detected.

    Raises:
        ValueError: If there is no annotation to find (the precision has no value then), or a
            detection has a box or score that is not finite or an image id that is not known.
    """
    if not any(not a.get("iscrowd", 0) for a in ground_truth["annotations"]):
        raise ValueError("the evaluation set has no annotated object: its precision has no value")
    _refuse_bad_detections(ground_truth, detections, kind)
    if not detections:
        return {"ap": 0.0, "ap50": 0.0, "ap75": 0.0}
    precision = _precision(ground_truth, detections, kind)
    return {
        "ap": _mean(precision),
        "ap50": _mean(precision[0]),
        "ap75": _mean(precision[5]),
    }


def _refuse_bad_detections(
    ground_truth: Mapping[str, Any], detections: Sequence[dict[str, Any]], kind: str
) -> None:
    known = {image["id"] for image in ground_truth["images"]}
    if unknown := {d["image_id"] for d in detections} - known:
        raise ValueError(f"detections for {len(unknown)} unknown image ids, e.g. {min(unknown)}")
    rows = [(d["score"], *d["bbox"]) if kind == "bbox" else (d["score"],) for d in detections]
    if rows and not (finite := np.isfinite(np.asarray(rows, dtype=np.float64)).all(1)).all():
        bad = detections[int(np.argmin(finite))]
        shown = {
            key: bad[key] for key in ("image_id", "category_id", "score", "bbox") if key in bad
        }
        raise ValueError(f"a detection is not finite: {shown}; the network has diverged")


def _precision(
    ground_truth: Mapping[str, Any], detections: Sequence[dict[str, Any]], kind: str
) -> np.ndarray:
    """Interpolated precision (10 IoU thresholds, 101 recalls, categories), -1 without objects."""
    from faster_coco_eval import COCO, COCOeval_faster

    truths = ground_truth["annotations"]
    with _no_collection():
        shared = _places(truths) & _places(detections) if kind == "segm" else None
        # The library takes an object with id 0 for none, and of equal ids the last one.
        annotations = [_record(a, shared, number) for number, a in enumerate(truths, start=1)]
        truth = COCO({**ground_truth, "annotations": annotations})
        records = [
            _record(d, shared, number) | {"iscrowd": 0, "area": _area(d, kind)}
            for number, d in enumerate(detections, 1)
        ]
        found = COCO({**ground_truth, "annotations": records})
        evaluation = COCOeval_faster(truth, found, iouType=kind, print_function=_silent)
        # Its threads only wait for each other: the overlaps are computed under Python's lock.
        evaluation.rle_iou_max_workers = 1
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [list(ANY_AREA)], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
        return np.asarray(evaluation.eval["precision"])[..., 0, 0]


def _places(records: Sequence[Mapping[str, Any]]) -> set[tuple[int, int]]:
    """Image and category of every record."""
    return {(record["image_id"], record["category_id"]) for record in records}


def _record(
    record: Mapping[str, Any], shared: set[tuple[int, int]] | None, number: int
) -> dict[str, Any]:
    """Copy of an annotation or detection, as the library writes into what it is given.

    It goes without a mask that is compared with nothing: an image's objects of a category need
    theirs only where there are detections of it too, and the reverse. To draw and unpack all of
    them is most of the work.
    """
    copy = {**record, "id": number}
    if not isinstance(record.get("area"), int | float):
        copy["area"] = 1.0
    if shared is not None and (record["image_id"], record["category_id"]) not in shared:
        copy["segmentation"] = NO_MASK
    return copy


def _area(detection: Mapping[str, Any], kind: str) -> float:
    """Area of a box: beyond ``ANY_AREA``, or turned inside out, it is no false alarm if unmatched.

    That of a mask lies within its image, so it is not measured.
    """
    return detection["bbox"][2] * detection["bbox"][3] if kind == "bbox" else 1.0


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector from walking through a million new records again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _mean(precision: np.ndarray) -> float:
    """Mean over what has a value; categories without objects have none."""
    return float(precision[precision > -1].mean())


def _silent(*_: Any, **__: Any) -> None:
    """Swallow the library's progress lines."""
