"""Sliding window: the plan's table, the map's values, brute force, and MONAI where both agree."""

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from monai.inferers import sliding_window_inference
from torch import nn

from modules.unet3d.net import UNet3D
from modules.unet3d.sliding_window import (
    axis_weights,
    crop_to_scored,
    importance_map,
    plan_axis,
    plan_windows,
    sliding_window_logits,
)

WINDOW = (16, 16, 16)


def infer(net, image, window=WINDOW, overlap=0.5, batch_size=4):
    return sliding_window_logits(net, image, window=window, overlap=overlap, batch_size=batch_size)


@pytest.mark.parametrize(
    ("size", "scored", "windows"),
    [(128, 128, 1), (159, 128, 1), (160, 160, 2), (190, 190, 2)]
    + [(192, 192, 2), (200, 192, 2), (250, 250, 3), (300, 300, 4)],
)
def test_plan_axis_gives_the_table_of_the_specification(size, scored, windows):
    plan = plan_axis(size, window=128, overlap=0.5)
    assert (plan.scored, 1 + (plan.padded - 128) / 64) == (scored, windows)


@pytest.mark.parametrize("window", [32, 128])
def test_plan_axis_every_size_follows_the_reference_steps(window):
    stride = window // 2
    for size in range(stride, 5 * window):
        plan = plan_axis(size, window=window, overlap=0.5)
        remainder = size % stride
        crop = remainder if remainder < stride // 2 else 0
        rest = size - crop
        pad = (stride - rest % stride) % stride
        pad += stride if rest + pad < window else 0
        assert (plan.crop_low, plan.crop_high) == (crop // 2, crop - crop // 2)
        assert (plan.pad_low, plan.pad_high) == (pad // 2, pad - pad // 2)
        assert plan.padded == rest + pad
        # No window is shifted to end with the axis.
        assert plan.padded >= window
        assert plan.padded % stride == 0


def test_plan_axis_uneven_overlap_is_an_error():
    with pytest.raises(ValueError, match=r"overlap 0\.25 of a window of 128 voxels"):
        plan_axis(200, window=128, overlap=0.25)


def test_plan_axis_nothing_left_is_an_error():
    with pytest.raises(ValueError, match="an axis of 20 voxels is too short"):
        plan_axis(20, window=128, overlap=0.5)


def test_importance_map_has_the_values_of_the_specification():
    weights = importance_map((128, 128, 128))
    assert weights.dtype == torch.float32
    assert weights.max() == 1
    assert weights[0, 63, 64].item() == pytest.approx(0.0724, abs=5e-5)
    assert weights[0, 0, 0].item() == pytest.approx(3.80e-4, abs=5e-7)
    assert weights.min() > 0


def test_importance_map_equals_cube_root_of_a_gaussian_product():
    side, sigma = 12, 12 * 0.125
    gauss = [math.exp(-(((i - 5.5) / sigma) ** 2) / 2) for i in range(side)]
    cubes = [[[(a * b * c) ** (1 / 3) for c in gauss] for b in gauss] for a in gauss]
    expected = torch.tensor(cubes, dtype=torch.float64)
    expected /= expected.max()
    torch.testing.assert_close(importance_map((side,) * 3), expected.float(), rtol=1e-5, atol=0)


def test_axis_weights_follow_each_side_of_a_window():
    assert importance_map((4, 6, 8)).shape == (4, 6, 8)
    assert torch.equal(axis_weights(8), axis_weights(8).flip(0))


@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize(
    ("window", "overlap", "stride"),
    [((20, 20, 20), 0.8, 4), ((16, 8, 12), 0.5, None), (WINDOW, 0.75, 4), (WINDOW, 0.0, 16)],
)
def test_sliding_window_gives_the_net_the_reference_windows_in_order(
    window, overlap, stride, batch_size
):
    shape = tuple(2 * side for side in window)
    volume = torch.arange(math.prod(shape)).reshape(1, 1, *shape).float()
    first_voxels = []

    def net(windows):
        assert windows.is_contiguous()  # for a compiled net, as in the warm-up
        assert len(windows) <= batch_size
        first_voxels.extend(windows[:, 0, 0, 0, 0].long().tolist())
        return windows

    infer(net, volume, window=window, overlap=overlap, batch_size=batch_size)
    # mlcommons/training @ 9947bdf2, runtime/inference.py: three nested loops over the axes.
    starts = [
        range(0, size - side + 1, stride or side // 2)
        for size, side in zip(shape, window, strict=True)
    ]
    wanted = [volume[0, 0, z, y, x].item() for z, y, x in product(*starts)]
    assert first_voxels == wanted


def test_sliding_window_constant_logits_come_back():
    def net(windows):
        values = torch.tensor([1.0, -2.0, 3.5]).view(1, 3, 1, 1, 1)
        return values.expand(len(windows), 3, *WINDOW)

    logits = infer(net, torch.randn(1, 1, 25, 29, 40))
    assert logits.shape == (1, 3, 24, 29, 40)
    for channel, value in enumerate((1.0, -2.0, 3.5)):
        torch.testing.assert_close(
            logits[0, channel], torch.full((24, 29, 40), value), rtol=1e-6, atol=0
        )


def blend_voxel_by_voxel(net, image):
    """Steps 1 to 5 of the specification in float64: crop, pad with -2.2, blend, cut off."""
    spans, pads = [], []
    for size in image.shape[2:]:
        crop = size % 8 if size % 8 < 4 else 0
        spans.append((crop // 2, size - crop + crop // 2))
        pad = -(size - crop) % 8
        pad += 8 if size - crop + pad < 16 else 0
        pads.append((pad // 2, pad - pad // 2))
    (d0, d1), (h0, h1), (w0, w1) = spans
    cropped = image[:, :, d0:d1, h0:h1, w0:w1]
    padded = F.pad(cropped, [p for pair in reversed(pads) for p in pair], value=-2.2)
    gauss = torch.exp(-(((torch.arange(16, dtype=torch.float64) - 7.5) / 2.0) ** 2) / 2)
    weights = (gauss[:, None, None] * gauss[:, None] * gauss) ** (1 / 3)
    weights /= weights.max()
    total = torch.zeros(1, 3, *padded.shape[2:], dtype=torch.float64)
    norm = torch.zeros(padded.shape[2:], dtype=torch.float64)
    for z in range(0, padded.shape[2] - 15, 8):
        for y in range(0, padded.shape[3] - 15, 8):
            for x in range(0, padded.shape[4] - 15, 8):
                box = (slice(z, z + 16), slice(y, y + 16), slice(x, x + 16))
                total[(..., *box)] += net(padded[(..., *box)]).double() * weights
                norm[box] += weights
    inside = tuple(
        slice(low, low + end - start) for (low, _), (start, end) in zip(pads, spans, strict=True)
    )
    return (total / norm)[(..., *inside)]


@pytest.mark.parametrize("shape", [(16, 20, 27), (30, 13, 33), (8, 17, 24)])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_sliding_window_equals_brute_force(shape, batch_size):
    torch.manual_seed(0)
    net = UNet3D(filters=(2, 4)).eval()
    image = torch.randn(1, 1, *shape)
    with torch.no_grad():
        expected = blend_voxel_by_voxel(net, image)
    got = infer(net, image, batch_size=batch_size)
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("window", "shape", "overlap"),
    [
        ((16, 16, 16), (24, 32, 40), 0.5),
        ((8, 16, 16), (12, 24, 16), 0.5),
        (WINDOW, (20, 24, 16), 0.75),
    ],
)
def test_sliding_window_equals_monai_on_the_same_windows(window, shape, overlap):
    """Sizes that are multiples of the stride: then neither crops, pads or shifts a window."""
    torch.manual_seed(0)
    net = nn.Conv3d(1, 3, 3, padding=1)
    image = torch.randn(1, 1, *shape)
    with torch.no_grad():
        expected = sliding_window_inference(
            image, window, 4, net, overlap, roi_weight_map=importance_map(window)[None, None]
        )
    torch.testing.assert_close(
        infer(net, image, window=window, overlap=overlap), expected, rtol=1e-5, atol=1e-6
    )


def test_sliding_window_single_window_is_the_plain_forward():
    net = nn.Conv3d(1, 3, 3, padding=1)
    image = torch.randn(1, 1, *WINDOW)
    with torch.no_grad():
        torch.testing.assert_close(infer(net, image), net(image), rtol=1e-6, atol=1e-6)


def test_sliding_window_bfloat16_net_is_blended_in_float32():
    def net(windows):
        return windows.bfloat16().expand(-1, 2, -1, -1, -1)

    image = torch.randn(1, 1, 24, 24, 24)
    logits = infer(net, image)
    assert logits.dtype == torch.float32
    # Blending equal values must not round them to bfloat16 again.
    rounded = image.bfloat16().float().expand(-1, 2, -1, -1, -1)
    torch.testing.assert_close(logits, rounded, rtol=1e-6, atol=1e-7)


def test_sliding_window_no_gradient_and_no_change_of_the_input():
    net = nn.Conv3d(1, 2, 1)
    image = torch.randn(1, 1, 20, 20, 20)
    before = image.clone()
    assert not infer(net, image).requires_grad
    assert torch.equal(image, before)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_sliding_window_net_that_returns_its_input_leaves_the_volume_alone(batch_size):
    image = torch.randn(1, 1, *WINDOW)
    before = image.clone()
    torch.testing.assert_close(infer(nn.Identity(), image, batch_size=batch_size), before)
    assert torch.equal(image, before)


def test_sliding_window_bfloat16_volume_is_blended_in_float32():
    image = torch.randn(1, 1, 24, 24, 24).bfloat16()
    kinds = []

    def net(windows):
        kinds.append(windows.dtype)
        return windows

    logits = infer(net, image)
    assert logits.dtype == torch.float32
    assert set(kinds) == {torch.bfloat16}
    torch.testing.assert_close(logits, image.float(), rtol=1e-6, atol=1e-7)


def test_crop_to_scored_keeps_image_and_label_aligned():
    label = torch.arange(21 * 16 * 19).reshape(1, 1, 21, 16, 19)
    plan = plan_windows((21, 16, 19), window=WINDOW, overlap=0.5)
    scored = crop_to_scored(label, plan)
    # 21 % 8 = 5 is padded; 19 % 8 = 3 is cropped by 1 below and 2 above.
    assert torch.equal(scored, label[..., 1:17])
    identity = infer(lambda windows: windows, label.float())
    torch.testing.assert_close(identity, scored.float(), rtol=1e-5, atol=1e-3)


def test_sliding_window_two_volumes_are_an_error():
    with pytest.raises(ValueError, match=r"one volume at a time, got .*\(2, 1, 16, 16, 16\)"):
        infer(nn.Identity(), torch.zeros(2, 1, *WINDOW))


def test_sliding_window_net_that_shrinks_is_an_error():
    with pytest.raises(ValueError, match=r"must keep the window: expected .*\(1, classes, 16"):
        infer(nn.MaxPool3d(2), torch.zeros(1, 1, *WINDOW))
