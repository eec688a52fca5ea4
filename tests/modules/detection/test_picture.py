"""detections.png: boxes that leave the image do not spoil the picture."""

import warnings

import numpy as np
import pytest
from PIL import Image

from modules.detection.picture import DetectionExample, save_detections

WILD = [[-1e6, -1e6, 1e6, 1e6], [-40.0, 9.0, 900.0, 60.0], [310.0, 310.0, 400.0, 400.0]]


@pytest.mark.parametrize("boxes", [[], WILD])
def test_boxes_beyond_the_image_leave_its_size_alone(tmp_path, boxes):
    image = np.full((80, 100, 3), (0, 200, 0), np.uint8)
    one = DetectionExample(image, np.array(boxes).reshape(-1, 4), np.ones(len(boxes)),
                np.ones(len(boxes), int), None)  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_detections(tmp_path / "detections.png", [one], ["a $ and a _$"], "title")
    with Image.open(tmp_path / "detections.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    green = (abs(pixels - (0, 200, 0)).sum(2) < 20).sum()
    assert green > 0.6 * 300 * 240  # a column is 300 pixels wide
