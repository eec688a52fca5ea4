"""Slices with masks over them, and which slices are drawn."""

import numpy as np
import torch

from modules.unet3d.picture import BRIGHTEST, COLOURS, DARKEST, fullest_slices, overlay
from modules.unet3d.sliding_window import crop_to_scored, plan_windows, uncrop


def test_a_mask_colours_its_own_voxels_only():
    image = np.full((4, 5), DARKEST)
    image[0] = BRIGHTEST
    mask = np.zeros((4, 5), np.uint8)
    mask[2, 3], mask[1, 1] = 1, 2
    rgb = overlay(image, mask)
    assert (rgb[0] == 255).all()
    assert (rgb[3] == 0).all()
    for place, colour in (((2, 3), COLOURS[0]), ((1, 1), COLOURS[1])):
        np.testing.assert_allclose(rgb[place], 0.55 * np.array(colour), atol=1)


def test_the_fullest_slices_are_spread_over_the_foreground():
    mask = np.zeros((20, 4, 4), np.uint8)
    mask[3:9, 0, 0] = 1
    mask[4], mask[8] = 1, 2
    assert fullest_slices(mask, 2) == [4, 8]
    assert fullest_slices(np.zeros((20, 4, 4)), 3) == [10]
    assert fullest_slices(mask[3:4], 3) == [0]


def test_uncrop_undoes_the_crop():
    volume_BCDHW = torch.arange(66 * 40 * 70.0).reshape(1, 1, 66, 40, 70)
    plan = plan_windows((66, 40, 70), window=(32, 32, 32), overlap=0.5)
    scored = crop_to_scored(volume_BCDHW, plan)
    assert scored.shape != volume_BCDHW.shape
    whole = uncrop(scored, plan)
    assert whole.shape == volume_BCDHW.shape
    assert torch.equal(crop_to_scored(whole, plan), scored)
    assert set(whole[whole != volume_BCDHW].tolist()) == {0.0}
