"""Annotation files as msgspec reads them, one annotation at a time, against Python's json."""

import json
import tracemalloc

import pytest

from datamodules.coco.annotations import parse
from datamodules.coco.json_file import read_json

RING = [1.0, 1.0, 9.0, 1.0, 9.0, 8.5, 1.0, 8.0]


def content(count=3, **changes):
    image = {"id": 1, "file_name": "a.jpg", "height": 20, "width": 20, "coco_url": "http://a"}
    record = {"image_id": 1, "category_id": 5, "bbox": [1, 1, 8, 7.5], "segmentation": [RING]}
    return {
        "info": {"year": 2017},
        "images": [image],
        "annotations": [record | changes | {"id": n} for n in range(count)],
        "categories": [{"id": 5, "name": "é"}],
    }


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "instances.json"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_all_parts_are_as_json_reads_them_but_for_what_nobody_uses(write):
    written = content()
    found = read_json(write(json.dumps(written)))
    del written["images"][0]["coco_url"]
    assert list(found.pop("annotations")) == written.pop("annotations")
    assert found == written


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_other_encodings_are_read_as_before(write, encoding):
    text = json.dumps(content(), ensure_ascii=False).encode(encoding)
    assert read_json(write(text))["categories"][0]["name"] == "é"


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_numbers_that_only_python_reads_are_named(write, number):
    path = write(json.dumps(content(area=77)).replace("77", number))
    with pytest.raises(ValueError, match=r"annotation 0: area .* is not a number from 0 on"):
        parse(read_json(path), path)


@pytest.mark.parametrize(
    "text",
    ['{"images": [], "annotations": [{', "[" * 100_000, b'{"images": ["\xff"], "annotations": []}'],
)
def test_a_damaged_file_is_one_line(write, text):
    with pytest.raises(ValueError, match=r"instances.json is truncated or damaged \(") as caught:
        read_json(write(text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "lacking"),
    [
        ("[]", "annotations, categories, images"),
        ('{"annotations": {}, "images": []}', "annotations, categories"),
        ('{"categories": [], "images": []}', "annotations"),
    ],
)
def test_parts_that_are_no_lists_are_named(write, text, lacking):
    with pytest.raises(ValueError, match=f"instances.json has no {lacking}; it is not"):
        read_json(write(text))


def test_an_annotation_damaged_inside_is_one_line(write):
    text = json.dumps(content(note="zz")).encode().replace(b"zz", b"\xff\xfe")
    with pytest.raises(ValueError, match=r"instances.json is truncated or damaged"):
        list(read_json(write(text))["annotations"])


def test_memory_is_the_files_and_the_arrays_not_the_objects(write):
    """As Python objects these annotations take 20 times the file's size."""
    path = write(json.dumps(content(20_000)))
    tracemalloc.start()
    parsed = parse(read_json(path), path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(parsed.label) == 20_000
    assert peak < 3 * path.stat().st_size
