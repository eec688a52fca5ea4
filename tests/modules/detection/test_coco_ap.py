"""COCO AP: equal to pycocotools, over ranks, and never a score made of an error."""

import contextlib
import copy
import gc
import io
import time

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from modules.detection.coco_ap import coco_average_precision
from modules.detection.coco_metric import CocoAP


def pycocotools_ap(truth, detections, kind):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {**truth, "annotations": [dict(a) for a in truth["annotations"]]}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes([dict(d) for d in detections]), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:3]


def scene(rng, *, images, categories, objects, extra, digits=2, tiny=False):
    """Random truth and detections; rounded scores tie, some objects are crowds or tiny."""
    truth = {
        "images": [{"id": 3 * i + 1, "width": 64, "height": 48} for i in range(images)],
        "categories": [{"id": 2 * k + 1, "name": str(k)} for k in range(categories + 1)],
        "annotations": [],
    }
    detections = []
    for image in truth["images"][: max(1, images - 1)]:  # the last one is empty
        for number in range(objects + extra):
            x, y = rng.uniform(0, 40), rng.uniform(0, 30)
            w, h = rng.uniform(0.2, 2, 2) if tiny else rng.uniform(3, 20, 2)
            category = int(2 * rng.integers(categories) + 1)
            if number < objects:
                crowd = int(rng.random() < 0.15)
                ring = [x, y, x + w, y, x + w, y + h, x, y + h]
                runs = coco_mask.merge(coco_mask.frPyObjects([ring], 48, 64))
                truth["annotations"].append(
                    {
                        "id": len(truth["annotations"]) + 1,
                        "image_id": image["id"],
                        "category_id": category,
                        "bbox": [x, y, w, h],
                        "area": w * h,
                        "iscrowd": crowd,
                        "segmentation": uncompressed(runs) if crowd else [ring],
                    }
                )
            for _ in range(int(rng.integers(1, 4))):
                box = [x + rng.normal(0, w / 9), y + rng.normal(0, h / 9), w, h]
                detections.append(detection(rng, image["id"], category, box, digits))
    return truth, detections


def uncompressed(runs):
    flat = coco_mask.decode(runs).reshape(-1, order="F")
    change = np.flatnonzero(np.diff(flat)) + 1
    edges = np.concatenate([[0], change, [len(flat)]])
    counts = np.diff(edges).tolist()
    return {"size": runs["size"], "counts": [0, *counts] if flat[0] else counts}


def detection(rng, image_id, category, box, digits):
    x, y, w, h = box
    ring = [x, y, x + w, y, x + w, y + h, x, y + h]
    runs = coco_mask.merge(coco_mask.frPyObjects([ring], 48, 64))
    return {
        "image_id": image_id,
        "category_id": category,
        "bbox": box,
        "score": float(np.round(rng.random(), digits)),
        "segmentation": {"size": [48, 64], "counts": runs["counts"]},
    }


CASES = {
    "ordinary": {"images": 12, "categories": 3, "objects": 4, "extra": 2},
    "ties": {"images": 12, "categories": 2, "objects": 5, "extra": 5, "digits": 0},
    "over 100 detections": {"images": 2, "categories": 1, "objects": 60, "extra": 30},
    "tiny areas": {"images": 6, "categories": 2, "objects": 5, "extra": 2, "tiny": True},
    "one image": {"images": 1, "categories": 3, "objects": 6, "extra": 1},
}


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_pycocotools(case, kind, seed):
    truth, detections = scene(np.random.default_rng(seed), **CASES[case])
    drop = "segmentation" if kind == "bbox" else "bbox"
    detections = [{k: v for k, v in d.items() if k != drop} for d in detections]
    ours = coco_average_precision(truth, detections, kind=kind)
    theirs = pycocotools_ap(truth, detections, kind)
    assert list(ours.values()) == pytest.approx(theirs, abs=1e-6)
    assert ours["ap50"] > 0


@pytest.mark.parametrize(
    "box", [[-1e6, -1e6, 1e6, 1e6], [5.0, 5.0, -3.0, 4.0], [5.0, 5.0, 0.0, 0.0]]
)
def test_absurd_boxes_count_as_in_pycocotools(box):
    """Larger than any area that counts, turned inside out, or without extent; best scores."""
    truth, detections = scene(np.random.default_rng(0), **CASES["ordinary"])
    boxes = [{k: v for k, v in d.items() if k != "segmentation"} for d in detections]
    for record in boxes[::3]:
        record |= {"bbox": box, "score": 1.0}
    for annotation in truth["annotations"][::4]:
        annotation["area"] = 1e11
    ours = coco_average_precision(truth, boxes)
    assert list(ours.values()) == pytest.approx(pycocotools_ap(truth, boxes, "bbox"), abs=1e-6)


@pytest.mark.parametrize("ids", [range(0, 999), [7] * 999, None])
def test_objects_count_regardless_of_their_ids(ids):
    truth, detections = scene(np.random.default_rng(0), **CASES["ordinary"])
    right = coco_average_precision(truth, detections)
    for number, annotation in enumerate(truth["annotations"]):
        del annotation["id"]
        annotation["area"] = None
        if ids is not None:
            annotation["id"] = ids[number]
    assert coco_average_precision(truth, detections) == right


def test_leaves_the_records_and_the_garbage_collector_as_they_were():
    truth, detections = scene(np.random.default_rng(0), **CASES["ordinary"])
    before = copy.deepcopy((truth, detections))
    coco_average_precision(truth, detections, kind="segm")
    with pytest.raises(KeyError):
        coco_average_precision(truth, [{"image_id": 1, "score": 0.5}], kind="segm")
    assert (truth, detections) == before
    assert gc.isenabled()


def test_detects_nothing_scores_zero():
    truth, _ = scene(np.random.default_rng(0), **CASES["ordinary"])
    assert coco_average_precision(truth, [])["ap"] == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [0.0, float("nan"), 1.0, 1.0]}, "not finite"),
        ({"score": float("inf")}, "not finite"),
        ({"image_id": 2}, "unknown image ids"),
    ],
)
def test_bad_detection_is_an_error_and_no_score(change, message):
    truth, detections = scene(np.random.default_rng(0), **CASES["ordinary"])
    with pytest.raises(ValueError, match=message):
        coco_average_precision(truth, [{**detections[0], **change}])


def test_truth_without_objects_is_an_error():
    truth, detections = scene(np.random.default_rng(0), **CASES["ordinary"])
    with pytest.raises(ValueError, match="no annotated object"):
        coco_average_precision({**truth, "annotations": []}, detections)


def fill(metric, truth, detections, indices):
    metric.begin(truth)
    labels = {c["id"]: 1 + k for k, c in enumerate(truth["categories"])}
    for index in indices:
        of_image = [d for d in detections if d["image_id"] == truth["images"][index]["id"]]
        metric.update(
            index,
            torch.tensor([d["bbox"] for d in of_image]).reshape(-1, 4),
            torch.tensor([d["score"] for d in of_image]),
            torch.tensor([labels[d["category_id"]] for d in of_image], dtype=torch.int64),
            [d["segmentation"]["counts"] for d in of_image],
        )
    return metric


@pytest.mark.parametrize("split", [[range(0, 12, 2), range(1, 12, 2)], [range(12), range(12)]])
def test_ranks_and_duplicates_do_not_change_the_value(split):
    truth, detections = scene(np.random.default_rng(3), **CASES["ties"])
    whole = fill(CocoAP(masks=True), truth, detections, range(12)).compute()
    parts = [fill(CocoAP(masks=True), truth, detections, part) for part in split]
    gathered = CocoAP(masks=True)
    gathered.begin(truth)
    for state in ("index", "count", "box", "score", "label", "mask", "mask_length"):
        setattr(gathered, state, [t for part in parts for t in getattr(part, state)])
    assert {k: float(v) for k, v in gathered.compute().items()} == {
        k: float(v) for k, v in whole.items()
    }
    assert whole["mask_ap"].dtype == torch.float64


@pytest.mark.parametrize("label", [0, 5])
def test_label_without_a_category_is_an_error(label):
    """0 would count as the last category, a greater one as none."""
    truth, _ = scene(np.random.default_rng(0), **CASES["ordinary"])
    metric = CocoAP()
    metric.begin(truth)
    with pytest.raises(ValueError, match=f"labels from {label} to {label}, but .* from 1 to 4"):
        metric.update(0, torch.ones(1, 4), torch.ones(1), torch.tensor([label]))


def large_scene(rng, num_images):
    """COCO's density: 36 detections and about 7 objects per image, 80 categories, 640 x 480."""
    truth = {
        "images": [{"id": i, "width": 640, "height": 480} for i in range(num_images)],
        "categories": [{"id": k, "name": str(k)} for k in range(1, 81)],
        "annotations": [],
    }
    outlines = []  # few different ones: to make them is not what is timed
    for _ in range(500):
        x, y, w, h = (float(v) for v in rng.uniform(5, 300, 4))
        ring = [x, y, x + w, y, x + w, y + h / 2, x + w / 2, y + h, x, y + h]
        runs = coco_mask.merge(coco_mask.frPyObjects([ring], 480, 640))
        outlines.append(([x, y, w, h], ring, runs))
    detections = []
    for image_id in range(num_images):
        for choice in rng.integers(len(outlines), size=36):
            box, ring, runs = outlines[choice]
            common = {"image_id": image_id, "category_id": int(rng.integers(1, 81))}
            score = float(rng.random())
            detections.append({**common, "score": score, "bbox": box, "segmentation": runs})
            if rng.random() < 0.2:
                facts = {"id": len(truth["annotations"]) + 1, "iscrowd": 0, "area": box[2] * box[3]}
                truth["annotations"].append(
                    {**common, **facts, "bbox": box, "segmentation": [ring]}
                )
    return truth, detections


@pytest.mark.speed
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "images"), [("bbox", 5000), ("segm", 2000)])
def test_five_times_faster_than_pycocotools(kind, images):
    """Boxes on as many images as COCO's evaluation set has; fewer for masks, to save minutes."""
    truth, detections = large_scene(np.random.default_rng(0), images)
    drop = "segmentation" if kind == "bbox" else "bbox"
    detections = [{k: v for k, v in d.items() if k != drop} for d in detections]
    start = time.perf_counter()
    ours = coco_average_precision(truth, detections, kind=kind)
    middle = time.perf_counter()
    theirs = pycocotools_ap(truth, detections, kind)
    ratio = (time.perf_counter() - middle) / (middle - start)
    print(f"{kind}: {middle - start:.1f} s; pycocotools takes {ratio:.1f} times as long")
    assert list(ours.values()) == pytest.approx(theirs, abs=1e-6)
    assert ratio >= 5
