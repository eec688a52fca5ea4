"""Speed of the sliding window beside MONAI's, as a ratio within one run."""

import statistics
import time

import pytest
import torch
from torch import nn

from modules.unet3d.sliding_window import importance_map, sliding_window_logits

ROUNDS = 7


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@pytest.mark.speed
@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 4])
def test_sliding_window_is_no_slower_than_monai(batch_size):
    """The net is next to nothing, so that cutting and blending is what is compared."""
    inferers = pytest.importorskip("monai.inferers")
    window, image = (64, 64, 64), torch.randn(1, 1, 160, 160, 160)
    net = nn.Conv3d(1, 3, 1).eval()
    weights = importance_map(window)[None, None]

    def ours():
        return sliding_window_logits(net, image, window=window, overlap=0.5, batch_size=batch_size)

    @torch.no_grad()
    def monai():
        return inferers.sliding_window_inference(
            image, window, batch_size, net, 0.5, roi_weight_map=weights
        )

    torch.testing.assert_close(ours(), monai(), rtol=1e-4, atol=1e-5)
    # Neighbours in time share the machine's load: the ratio of each pair, then their median.
    ratios = [seconds(ours) / seconds(monai) for _ in range(ROUNDS)]
    print(f"sliding window against MONAI, batch {batch_size}: {statistics.median(ratios):.2f}")
    assert statistics.median(ratios) <= 1.0
