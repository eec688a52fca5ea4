"""Balanced crop and augmentation against brute force and the specification."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from datamodules.kits19.transforms import (
    SampleDraw,
    apply_draw,
    box_start,
    component_boxes,
    crop_start,
    draw_sample,
    uniform_start,
)

SHAPE, CROP = (20, 17, 12), (8, 8, 8)


def blobs() -> np.ndarray:
    """Class 1: three components, the one with the largest BOX is thin; class 2: one."""
    label = np.zeros(SHAPE, np.uint8)
    label[0:3, 0:3, 0:3] = 1  # 27 voxels, box 27
    label[5:9, 5:9, 5:8] = 1  # 48 voxels, box 48
    label[11:20, 12, 2] = label[15, 10:17, 2] = label[15, 12, 2:10] = 1  # 23 voxels, box 504
    label[1:3, 10:13, 8:10] = 2
    return label


def flood_boxes(mask: np.ndarray) -> list[list[list[int]]]:
    """Boxes of face-connected components by plain flood fill, largest box first."""
    left = {tuple(voxel) for voxel in np.argwhere(mask).tolist()}
    boxes = []
    while left:
        stack = [left.pop()]
        found = list(stack)
        while stack:
            voxel = stack.pop()
            for axis in range(3):
                for step in (-1, 1):
                    near = tuple(v + step * (i == axis) for i, v in enumerate(voxel))
                    if near in left:
                        left.remove(near)
                        stack.append(near)
                        found.append(near)
        low, high = np.min(found, axis=0), np.max(found, axis=0) + 1
        boxes.append(np.stack([low, high], axis=1).tolist())
    return sorted(boxes, key=lambda box: -int(np.prod([b - a for a, b in box])))


def test_component_boxes_keep_the_two_largest_boxes_not_the_most_voxels() -> None:
    boxes = component_boxes(blobs())
    assert boxes[1].tolist() == [[[11, 20], [10, 17], [2, 10]], [[5, 9], [5, 9], [5, 8]]]
    assert boxes[2].tolist() == [[[1, 3], [10, 13], [8, 10]]]


@pytest.mark.parametrize("seed", range(5))
def test_component_boxes_random_labels_equal_flood_fill(seed: int) -> None:
    rng = np.random.default_rng(seed)
    label = rng.choice([0, 1, 2], (9, 8, 7), p=[0.75, 0.15, 0.1]).astype(np.uint8)
    for class_id, boxes in component_boxes(label, keep=1000).items():
        brute = flood_boxes(label == class_id)
        volumes = np.prod(boxes[..., 1] - boxes[..., 0], axis=1)
        assert all(a >= b for a, b in pairwise(volumes))
        assert sorted(boxes.tolist()) == sorted(brute)


def test_component_boxes_no_foreground_gives_none() -> None:
    assert component_boxes(np.zeros((3, 4, 5), np.uint8)) == {}


def test_uniform_start_never_uses_the_last_position() -> None:
    starts = {tuple(uniform_start(np.random.default_rng(i), (11, 8, 9), CROP)) for i in range(300)}
    assert {start[0] for start in starts} == {0, 1, 2}  # 3 would fit
    assert {start[1:] for start in starts} == {(0, 0)}


def crop_by_the_specification(first: int, last: int, size: int, side: int, draw: int) -> range:
    """One axis of the foreground crop as the benchmark's specification words it (section 2, e)."""
    d = side - (last - first)
    sign = -1 if d < 0 else 1
    d = abs(d)
    low = max(0, first - sign * draw)
    high = min(size, last + sign * (d - draw))
    d2 = side - (high - low)
    if d2 > 0 and low == 0:
        high += d2
    elif d2 > 0:
        low -= d2
    return range(low, high)


@pytest.mark.parametrize("side", [4, 8])
def test_box_start_reaches_exactly_the_specified_crops(side: int) -> None:
    size = 10
    for first in range(size):
        for last in range(first + 1, size + 1):
            draws = range(max(1, abs(side - (last - first))))
            allowed = {
                crop_by_the_specification(first, last, size, side, draw).start for draw in draws
            }
            box = np.array([[first, last]] * 3)
            got = {
                start
                for i in range(40)
                for start in box_start(np.random.default_rng(i), box, (size,) * 3, (side,) * 3)
            }
            assert got == allowed
            assert all(0 <= start <= size - side for start in got)


def test_crop_start_shares_between_classes_boxes_and_background() -> None:
    calls = 4000
    rng = np.random.default_rng(0)
    boxes = component_boxes(blobs())
    asked = []

    def give() -> dict[int, np.ndarray]:
        asked.append(1)
        return boxes

    for _ in range(calls):
        crop_start(rng, SHAPE, give, CROP, 0.4)
    assert len(asked) / calls == pytest.approx(0.4, abs=0.03)
    tumour = component_boxes(blobs())[2][0]
    held = 0
    for _ in range(calls):
        start = crop_start(rng, SHAPE, lambda: boxes, CROP, 1.0)
        held += all(
            s <= a and b <= s + n for s, (a, b), n in zip(start, tumour.tolist(), CROP, strict=True)
        )
    assert held / calls == pytest.approx(0.5, abs=0.03)  # half of the biased crops are for it


def test_crop_start_no_foreground_falls_back_to_the_uniform_crop() -> None:
    start = crop_start(np.random.default_rng(0), SHAPE, dict, CROP, 1.0)
    assert all(0 <= s <= size - 8 for s, size in zip(start, SHAPE, strict=True))


@pytest.mark.parametrize(("form", "low", "high"), [("reference", 1.7, 2.3), ("plain", 0.7, 1.3)])
def test_draw_sample_probabilities_and_ranges(form: str, low: float, high: float) -> None:
    draws = [
        draw_sample(
            np.random.default_rng(i),
            SHAPE,
            dict,
            CROP,
            oversampling=0.4,
            brightness=form,  # type: ignore[arg-type]
        )
        for i in range(3000)
    ]
    for axis in range(3):
        assert np.mean([axis in draw.flips for draw in draws]) == pytest.approx(1 / 3, abs=0.03)
    factors = [draw.brightness for draw in draws if draw.brightness is not None]
    assert len(factors) / 3000 == pytest.approx(0.1, abs=0.02)
    assert low <= min(factors) < low + 0.05
    assert high - 0.05 < max(factors) <= high
    sigmas = [draw.noise_sigma for draw in draws if draw.noise_sigma is not None]
    assert len(sigmas) / 3000 == pytest.approx(0.1, abs=0.02)
    assert 0 <= min(sigmas) < 0.01 < 0.09 < max(sigmas) <= 0.1
    assert draws[0] == draw_sample(
        np.random.default_rng(0),
        SHAPE,
        dict,
        CROP,
        oversampling=0.4,
        brightness=form,  # type: ignore[arg-type]
    )


def test_apply_draw_flips_keep_image_and_label_together() -> None:
    label = torch.from_numpy(blobs())[None]
    image = label.float() * 10
    for flips in [(), (0,), (1, 2), (0, 1, 2)]:
        draw = SampleDraw((10, 8, 2), flips, None, None, 0)
        crop, classes = apply_draw(image, label, draw, CROP)
        expected = np.flip(blobs()[10:18, 8:16, 2:10], flips)
        assert np.array_equal(classes[0].numpy(), expected)
        assert torch.equal(crop, classes.float() * 10)
        assert (crop.dtype, classes.dtype) == (torch.float32, torch.uint8)


def test_apply_draw_brightness_then_noise_and_volume_untouched() -> None:
    image, label = torch.ones(1, 40, 40, 40), torch.ones(1, 40, 40, 40, dtype=torch.uint8)
    draw = SampleDraw((0, 0, 0), (), 2.0, 0.05, 7)
    crop, _ = apply_draw(image, label, draw, (40, 40, 40))
    again, _ = apply_draw(image, label, draw, (40, 40, 40))
    assert torch.equal(crop, again)
    assert crop.mean().item() == pytest.approx(2.0, abs=1e-3)
    # Noise after brightness: its spread is not multiplied.
    assert crop.std().item() == pytest.approx(0.05, abs=1e-3)
    assert torch.equal(image, torch.ones_like(image))
