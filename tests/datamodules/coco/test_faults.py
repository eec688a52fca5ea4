"""Annotations that are wrong: each is named with its id, in one line, before the clock."""

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from datamodules.coco.annotations import misfits, parse
from datamodules.coco.geometry import overlap, polygon_bounds, run_bounds, runs_of
from datamodules.coco.published import COUNTS

FILE = Path("instances_val2017.json")
SQUARE = [[20.0, 30.0, 60.0, 30.0, 60.0, 50.0, 20.0, 50.0]]
RECORD = {
    "id": 7, "image_id": 3, "category_id": 1, "iscrowd": 0, "area": 800.0,
    "bbox": [20.0, 30.0, 40.0, 20.0], "segmentation": SQUARE,
}  # fmt: skip
CONTENT = {
    "images": [{"id": 3, "file_name": "a.jpg", "width": 120, "height": 100}],
    "categories": [{"id": 1, "name": "thing"}],
    "annotations": [RECORD],
}
# Of a mask of 100 x 120 pixels, as text.
COMPRESSED = coco_mask.frPyObjects(SQUARE, 100, 120)[0]["counts"].decode()


def lines_of(content):
    try:
        parse(content, FILE)
    except ValueError as error:
        return str(error).splitlines()
    return misfits(content, FILE, but_for=())


def changed(**values):
    content = copy.deepcopy(CONTENT)
    content["annotations"][0].update(values)
    return content


RLE = "segmentation"
VALUES = {
    "bbox a number": ({"bbox": 5}, "bbox 5 is not four finite numbers"),
    "bbox of five": ({"bbox": [1, 2, 3, 4, 5]}, "is not four finite numbers"),
    "bbox of lists": ({"bbox": [[1], 2, 3, 4]}, "is not four finite numbers"),
    "bbox with true": ({"bbox": [True, 2, 3, 4]}, "is not four finite numbers"),
    "bbox beyond floats": ({"bbox": [10**400, 2, 3, 4]}, "is not four finite numbers"),
    "bbox null": ({"bbox": None}, "bbox is missing"),
    "bbox negative": ({"bbox": [60.0, 50.0, -40.0, -20.0]}, "has a negative size"),
    "bbox outside": ({"bbox": [200.0, 30.0, 40.0, 20.0]}, "leaves its image of 120 x 100"),
    "bbox before 0": ({"bbox": [-20.0, 30.0, 40.0, 20.0]}, "leaves its image"),
    "bbox fractions": ({"bbox": [0.2, 0.3, 0.3, 0.2]}, "looks like fractions"),
    "bbox corners": ({"bbox": [20.0, 30.0, 60.0, 50.0]}, "looks like two corners"),
    "bbox corners, run lengths": (
        {"bbox": [20.0, 30.0, 60.0, 50.0], RLE: {"size": [100, 120], "counts": COMPRESSED}},
        "looks like two corners",
    ),
    "bbox corners, no mask": (
        {"bbox": [20.0, 30.0, 60.0, 50.0], RLE: None}, "looks like two corners, as its area is 800"
    ),
    "bbox y first": ({"bbox": [70.0, 20.0, 20.0, 40.0]}, "is not around its mask"),
    "image_id a list": ({"image_id": [3]}, r"image_id \[3\] is not in images"),
    "image_id a float": ({"image_id": 3.0}, "image_id 3.0 is not in images"),
    "image_id text": ({"image_id": "3"}, "image_id '3' is not in images"),
    "category_id a float": ({"category_id": 1.0}, "category_id 1.0 is not in categories"),
    "category_id true": ({"category_id": True}, "category_id True is not in categories"),
    "category_id a record": ({"category_id": {}}, r"category_id \{\} is not in categories"),
    "id a float": ({"id": 7.5}, "annotation 7.5: id 7.5 is not an integer"),
    "iscrowd null": ({"iscrowd": None}, "iscrowd None is not 0 or 1"),
    "iscrowd 2": ({"iscrowd": 2}, "iscrowd 2 is not 0 or 1"),
    "iscrowd text": ({"iscrowd": "0"}, "iscrowd '0' is not 0 or 1"),
    "area negative": ({"area": -1.0}, "area -1.0 is not a number from 0 on"),
    "area NaN": ({"area": float("nan")}, "area nan is not a number"),
    "area null": ({"area": None}, "area None is not a number"),
    "area huge": ({"area": 1e11}, "more than its image"),
    "mask text": ({RLE: "RLE"}, "'RLE' is neither polygons nor run lengths"),
    "mask number": ({RLE: 5}, "neither polygons nor run lengths"),
    "mask of text": ({RLE: ["RLE"]}, "a polygon is not a list of finite numbers"),
    "mask astronomic": (
        {RLE: [[20.0, 30.0, 1e12, 30.0, 60.0, 50.0]]}, "polygons reach .* in its image of 120 x 100"
    ),
    "mask beyond floats": ({RLE: [[1e999, 3, 4, 5, 6, 7]]}, "not a list of finite numbers"),
    "runs swapped": (
        {RLE: {"size": [120, 100], "counts": [0, 10, 11990]}}, r"size \[120, 100\], not \[height"
    ),
    "runs too short": ({RLE: {"size": [100, 120], "counts": [0, 10]}}, "cover 10 pixels of"),
    "runs negative": (
        {RLE: {"size": [100, 120], "counts": [12010, -10]}}, "cover nothing readable of"
    ),
    "runs of floats": (
        {RLE: {"size": [100, 120], "counts": [12000.0]}}, "cover nothing readable of"
    ),
    "runs a number": ({RLE: {"size": [100, 120], "counts": 7}}, "cover nothing readable of"),
    "runs cut short": (
        {RLE: {"size": [100, 120], "counts": COMPRESSED[:-3]}}, "its run lengths cover"
    ),
    "runs garbled": ({RLE: {"size": [100, 120], "counts": "\x7f~é"}}, "cover nothing readable of"),
    "runs endless": ({RLE: {"size": [100, 120], "counts": "o" * 99}}, "cover nothing readable of"),
    "runs without size": ({RLE: {"counts": [0, 10]}}, "run lengths need size and counts"),
    "runs of nothing": ({RLE: {}}, "run lengths need size and counts, got nothing"),
    "runs of size null": ({RLE: {"size": None, "counts": [12000]}}, "have size None"),
}  # fmt: skip


@pytest.mark.parametrize("fault", VALUES)
def test_a_wrong_value_is_named_with_its_id(fault):
    values, words = VALUES[fault]
    (line,) = lines_of(changed(**values))
    assert line.startswith(f"{FILE}: annotation {values.get('id', 7)}: ")
    assert re.search(words, line)


@pytest.mark.parametrize("record", [None, 5, "text", [], {}])
def test_a_record_of_a_wrong_type_is_named_by_its_place(record):
    content = copy.deepcopy(CONTENT)
    content["annotations"].append(record)
    (line,) = lines_of(content)
    assert line.startswith(f"{FILE}: annotation number 2, without id: ")


SOUND = {
    "as it is": {},
    "run lengths": {"segmentation": {"size": [100, 120], "counts": COMPRESSED}},
    "run lengths of a list": {
        "bbox": [0.0, 0.0, 2.0, 50.0], RLE: {"size": [100, 120], "counts": [0, 150, 11850]}
    },
    "empty run lengths": {"segmentation": {"size": [100, 120], "counts": [12000]}},
    "no mask": {"segmentation": []},
    "over the edge by rounding": {"bbox": [20.0, 30.0, 41.5, 20.0]},
    "no height": {"bbox": [20.0, 30.0, 40.0, 0.0], "area": 0.0, "segmentation": [[20.0, 30.0] * 3]},
    "a crowd": {"iscrowd": 1},
    "JSON's true": {"iscrowd": True},
    "integers": {"bbox": [20, 30, 40, 20], "area": 800},
    "loose": {"bbox": [15.0, 25.0, 55.0, 30.0]},
    "small, with the last pixel": {
        "bbox": [1, 1, 5, 5], "segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]], "area": 16
    },
    "from the corner on": {"bbox": [0.0, 0.0, 60.0, 50.0], "segmentation": [], "area": 3000.0},
}  # fmt: skip


@pytest.mark.parametrize("values", SOUND.values(), ids=SOUND)
def test_a_sound_annotation_passes(values):
    assert lines_of(changed(**values)) == []


def test_annotations_need_neither_id_nor_area_nor_crowd_mark():
    content = copy.deepcopy(CONTENT)
    for key in ("id", "area", "iscrowd", "segmentation"):
        content["annotations"][0].pop(key)
    assert lines_of(content) == []


def test_an_id_that_occurs_twice_is_named():
    content = copy.deepcopy(CONTENT)
    content["annotations"].append(content["annotations"][0])
    assert lines_of(content) == [
        f"{FILE}: annotation 7 occurs more than once; give each an id of its own"
    ]


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        ("images", {"id": 3.0}, "ids of images are not integers, e.g. 3.0"),
        ("images", {"id": True}, "ids of images are not integers, e.g. True"),
        ("images", {"id": 2**70}, "ids of images are not integers"),
        ("images", {"width": 120.5}, "parts of pixels"),
        ("images", {"width": "120"}, "have no pixels"),
        ("images", {"width": float("nan")}, "have no pixels"),
        ("images", {"height": -1}, "have no pixels"),
        ("images", {"file_name": 5}, "no file name in their folder"),
        ("images", {"file_name": "../val2017/a.jpg"}, "no file name in their folder"),
        ("images", {"file_name": "/etc/a.jpg"}, "no file name in their folder"),
        ("categories", {"id": [1]}, "ids of categories are not integers"),
    ],
)
def test_a_wrong_entry_is_named(kind, values, words):
    content = copy.deepcopy(CONTENT)
    content[kind][0].update(values)
    (line,) = lines_of(content)
    assert words in line


def test_a_file_name_that_occurs_twice_is_named():
    content = copy.deepcopy(CONTENT)
    content["images"].append({**content["images"][0], "id": 4})
    assert lines_of(content) == [
        f"{FILE}: 1 file names occur more than once, e.g. a.jpg; correct the file"
    ]


def test_boxes_of_coco_itself_are_left_to_the_reference_which_clips_them(monkeypatch):
    content = changed(bbox=[20.0, 30.0, 104.0, 20.0])
    assert len(lines_of(content)) == 1
    monkeypatch.setitem(COUNTS, "val", {"images": 1, "annotations": 1})
    monkeypatch.setattr("datamodules.coco.published.CATEGORY_IDS", [1])
    assert lines_of(content) == []
    assert len(lines_of(changed(bbox=[20.0, 30.0, -1.0, 20.0]))) == 1


def test_run_lengths_and_bounds_equal_pycocotools():
    rng = np.random.default_rng(0)
    for _ in range(40):
        height, width = (int(side) for side in rng.integers(2, 40, 2))
        mask = np.zeros((height, width), np.uint8)
        x1, y1 = int(rng.integers(width)), int(rng.integers(height))
        mask[y1 : y1 + 9, x1 : x1 + 7] = rng.integers(0, 2, mask[y1 : y1 + 9, x1 : x1 + 7].shape)
        flat = mask.flatten(order="F")
        edges = np.flatnonzero(np.diff(flat)) + 1
        runs = np.diff([0, *edges, flat.size]).tolist()
        runs = [0, *runs] if flat[0] else runs
        encoded = coco_mask.encode(np.asfortranarray(mask))
        assert runs_of(encoded["counts"].decode()) == runs
        assert runs_of(json.loads(json.dumps(runs))) == runs
        bounds = run_bounds(runs, height)
        if not mask.any():
            assert bounds is None
            continue
        x, y, w, h = coco_mask.toBbox(encoded).tolist()
        assert bounds == (x, y, x + w, y + h)


def test_overlap_and_polygon_bounds():
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 1, 1), (2, 2, 3, 3)) == overlap((0, 0, 0, 0), (0, 0, 0, 0)) == 0
    assert polygon_bounds([[1, 2, 5, 1, 3, 9], [0, 4, 2, 4, 2, 5]]) == (0, 1, 5, 9)
