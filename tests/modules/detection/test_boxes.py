"""Grouped suppression: torchvision's nms per group keeps the set that all groups together keep."""

import pytest
import torch
from torchvision.ops import nms

from modules.detection.boxes import _suppress_together, grouped_nms


def random_groups(seed, grid):
    """Boxes, best first, with corners on a grid where one is given: then many overlaps tie."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(20, 60, 2, generator=generator)
    side = 0.5 * torch.rand(20, 60, 2, generator=generator)
    if grid:
        corner, side = (corner * grid).round() / grid, (side * grid).round() / grid
    valid = torch.rand(20, 60, generator=generator) < torch.rand(20, 1, generator=generator)
    return torch.cat([corner, corner + side], -1), valid


@pytest.mark.parametrize("threshold", [0.5, 0.3])
@pytest.mark.parametrize("grid", [None, 4, 8, 32])
def test_groups_one_by_one_keep_the_set_of_all_together(grid, threshold):
    for seed in range(5):
        boxes, valid = random_groups(seed, grid)
        keep = grouped_nms(boxes, valid, threshold)
        assert torch.equal(keep, _suppress_together(boxes, valid, threshold))
        assert not (keep & ~valid).any()


def test_nan_and_swapped_boxes_keep_the_same_set():
    boxes, valid = random_groups(0, 8)
    boxes[:, ::7, 2] = torch.nan
    boxes[:, 1::5] = boxes[:, 1::5].flip(-1)
    assert torch.equal(grouped_nms(boxes, valid, 0.5), _suppress_together(boxes, valid, 0.5))


@pytest.mark.parametrize("suppress", [grouped_nms, _suppress_together])
def test_overlap_of_exactly_the_threshold_is_suppressed_unlike_by_torchvision(suppress):
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.5, 1.0]])
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0, 1]
    keep = suppress(boxes[None], torch.ones(1, 2, dtype=torch.bool), 0.5)
    assert keep.tolist() == [[True, False]]


def test_no_group_and_no_box_are_fine():
    for shape in ((0, 5), (3, 0)):
        keep = grouped_nms(torch.zeros(*shape, 4), torch.zeros(shape, dtype=torch.bool), 0.5)
        assert keep.shape == shape
