"""The ground truth next to the detections, and the threshold that fits both best."""

import numpy as np
import pytest

from modules.detection.picture import DetectionExample, best_threshold, save_detections, truth_of

CONTENT = {
    "images": [{"id": 7, "width": 200, "height": 100}],
    "categories": [{"id": 1, "name": "cat"}, {"id": 90, "name": "dog"}],
    "annotations": [
        {"image_id": 7, "category_id": 90, "bbox": [20, 10, 40, 30], "iscrowd": 0,
         "segmentation": [[20, 10, 60, 10, 60, 40]]},
        {"image_id": 7, "category_id": 1, "bbox": [100, 10, 40, 30]},
        {"image_id": 7, "category_id": 1, "bbox": [0, 0, 200, 100], "iscrowd": 1},
        {"image_id": 8, "category_id": 1, "bbox": [0, 0, 9, 9]},
    ],
}  # fmt: skip


def example(scores, *, mask=None):
    """A dog and a cat found, and one box where nothing is, in an image of half the file's size."""
    box = np.array([[10.0, 5, 30, 20], [50, 5, 70, 20], [0, 30, 40, 50]])
    return DetectionExample(
        np.zeros((50, 100, 3), np.uint8), box, np.array(scores), np.array([2, 1, 1]), mask
    )


def test_objects_are_in_pixels_of_the_image_and_crowds_are_left_out():
    one = example([0.9, 0.8, 0.7], mask=np.zeros((3, 50, 100), bool))
    truth = truth_of(one, CONTENT)
    np.testing.assert_array_equal(truth.box, [[10, 5, 30, 20], [50, 5, 70, 20]])
    assert truth.label.tolist() == [2, 1]
    np.testing.assert_array_equal(truth.outlines[0], [[[10, 5], [30, 5], [30, 20]]])
    assert truth_of(example([1, 1, 1]), CONTENT).outlines == [[], []]


@pytest.mark.parametrize(
    ("scores", "threshold"),
    [([0.9, 0.8, 0.7], 0.8), ([0.2, 0.1, 0.05], 0.1), ([0.5, 0.4, 0.9], 0.4)],
)
def test_the_threshold_shows_what_was_found(scores, threshold):
    one = example(scores)
    assert best_threshold([one], [truth_of(one, CONTENT)]) == threshold


def test_a_second_box_on_an_object_counts_as_false():
    one = example([0.9, 0.8, 0.7])
    twice = one._replace(box=one.box[[0, 0, 1]], label=np.array([2, 2, 1]))
    assert best_threshold([twice], [truth_of(one, CONTENT)]) == 0.7
    wrong = one._replace(label=np.array([1, 2, 2]))
    assert best_threshold([wrong], [truth_of(one, CONTENT)]) == 0.3, "nothing fits"


def test_truth_and_detections_are_drawn_next_to_each_other(tmp_path):
    from PIL import Image

    one = example([0.9, 0.8, 0.1])
    truths = [truth_of(one, CONTENT)]
    save_detections(tmp_path / "both.png", [one], ["cat", "dog"], "title", truths)
    save_detections(tmp_path / "one.png", [one], ["cat", "dog"], "title")
    with Image.open(tmp_path / "both.png") as both, Image.open(tmp_path / "one.png") as alone:
        assert both.width == alone.width == 1200
        black = [(np.asarray(p.convert("L")) < 10).sum(0) > 50 for p in (both, alone)]
    assert 0.8 < black[0].mean() < 1.0, "two panels, a gap between them"
