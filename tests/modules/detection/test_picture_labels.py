"""Captions of boxes cover no other caption and stay in the image."""

import numpy as np

from modules.detection.picture_labels import place_labels


def test_captions_of_random_boxes_do_not_overlap():
    rng = np.random.default_rng(3)
    for count in (1, 5, 40):
        low = rng.uniform(0, 250, (count, 2))
        boxes = [(x, y, x + 40, y + 30) for x, y in low]
        places = place_labels(boxes, [(60.0, 12.0)] * count, (300, 300))
        placed = [place for place in places if place is not None]
        assert len(placed) >= min(count, 20)
        for place in placed:
            assert 0 <= place.x <= 240
            assert 0 <= place.y <= 288
        for n, one in enumerate(placed):
            for other in placed[n + 1 :]:
                apart = abs(one.x - other.x) >= 60 or abs(one.y - other.y) >= 12
                assert apart, (one, other)


def test_a_single_caption_is_above_its_box():
    (place,) = place_labels([(20.0, 50.0, 80.0, 90.0)], [(30.0, 10.0)], (100, 100))
    assert (place.x, place.y) == (20.0, 40.0)
    (place,) = place_labels([(20.0, 2.0, 80.0, 90.0)], [(30.0, 10.0)], (100, 100))
    assert place.y == 90.0, "below, where there is no room above"
