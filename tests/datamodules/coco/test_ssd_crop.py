"""SSD's random crop of an image and its boxes."""

import numpy as np
from PIL import Image

from datamodules.coco import (
    ssd_images,
)


def test_crop_keeps_the_rule_and_is_a_function_of_the_draw():
    boxes = np.array([[0.1, 0.2, 0.4, 0.6], [0.5, 0.3, 0.9, 0.8]])
    labels = np.array([1, 2])
    kept_whole, windows = 0, 0
    for seed in range(400):
        window, out, out_labels = ssd_images.crop(
            np.random.default_rng(seed), boxes, labels, attempts=1
        )
        again = ssd_images.crop(np.random.default_rng(seed), boxes, labels, attempts=1)
        assert again[0] == window
        if window is None:
            kept_whole += 1
            assert out is boxes
            continue
        windows += 1
        w, h = window[2] - window[0], window[3] - window[1]
        assert min(w, h) >= 0.3 - 1e-9
        assert 0.5 <= w / h <= 2
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = ((centre > window[:2]) & (centre < window[2:])).all(1)
        assert out_labels.tolist() == labels[inside].tolist()
        assert out.min() >= 0
        assert out.max() <= 1 + 1e-9
    assert kept_whole > 150  # strict bounds nearly never hold for two boxes
    assert windows > 40


def test_no_pixel_beside_the_window_enters_the_crop():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (120, 90, 3), dtype=np.uint8)
    alone = pixels[30:90, 20:70]
    surrounded = ssd_images.resize(Image.fromarray(pixels), (2 / 9, 0.25, 7 / 9, 0.75), 300)
    wanted = Image.fromarray(alone).resize((300, 300), Image.Resampling.BILINEAR)
    assert surrounded.tobytes() == wanted.tobytes()
