"""Speed of the training step and of the sliding window, each a ratio within one run."""

import statistics
import time

import pytest
import torch

from modules.unet3d.dice import dice_ce_loss
from modules.unet3d.net import UNet3D
from modules.unet3d.sliding_window import importance_map, sliding_window_logits

ROUNDS = 7
WINDOW, SIDE, STRIDE = 32, 64, 16


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@torch.no_grad()
def plain_loop(net, image, batch_size):
    """Windows of a volume that needs neither crop nor padding, blended one after the other."""
    starts = range(0, SIDE - WINDOW + 1, STRIDE)
    spans = [slice(start, start + WINDOW) for start in starts]
    places = [(slice(None), slice(None), d, h, w) for d in spans for h in spans for w in spans]
    weights = importance_map((WINDOW,) * 3)
    total, norm = torch.zeros(1, 3, *image.shape[2:]), torch.zeros(1, 1, *image.shape[2:])
    for first in range(0, len(places), batch_size):
        batch = places[first : first + batch_size]
        logits = net(torch.cat([image[place] for place in batch]))
        for place, one in zip(batch, logits.split(1), strict=True):
            total[place].addcmul_(one, weights)
            norm[place].add_(weights)
    return total.div_(norm)


@pytest.mark.speed
@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 4])
def test_sliding_window_takes_the_time_of_a_plain_loop(batch_size):
    """The demo's net, next to which cutting and blending weigh the most."""
    net, image = UNet3D(filters=(8, 16, 32)).eval(), torch.randn(1, 1, SIDE, SIDE, SIDE)

    def ours():
        return sliding_window_logits(
            net, image, window=(WINDOW,) * 3, overlap=0.5, batch_size=batch_size
        )

    def loop():
        return plain_loop(net, image, batch_size)

    torch.testing.assert_close(ours(), loop(), rtol=0, atol=1e-6)
    # Neighbours in time share the machine's load: the ratio of each pair, then their median.
    ratios = [seconds(ours) / seconds(loop) for _ in range(ROUNDS)]
    print(f"sliding window against a loop, batch {batch_size}: {statistics.median(ratios):.2f}")
    assert statistics.median(ratios) <= 1.13


def monai_step(image, label, filters):
    """The same graph in MONAI: same parameters, DiceCELoss, torch's own SGD."""
    from monai.losses import DiceCELoss
    from monai.networks.nets import DynUNet

    strides = [1] + [2] * (len(filters) - 1)
    net = DynUNet(
        3, 1, 3, kernel_size=[3] * len(filters), strides=strides, upsample_kernel_size=strides[1:],
        filters=list(filters), norm_name=("instance", {"affine": True}), act_name="relu",
        trans_bias=True,
    )  # fmt: skip
    loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
    return train_step(net, lambda logits: loss(logits, label), image)


def train_step(net, loss, image):
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9, nesterov=True)

    def step():
        optimizer.zero_grad()
        loss(net(image)).backward()
        optimizer.step()

    step.parameters = sum(p.numel() for p in net.parameters())
    return step


@pytest.mark.speed
@pytest.mark.slow
def test_training_step_takes_the_time_of_monais():
    """The closed network's first four levels on 64^3; the convolutions are nearly all of it."""
    filters = (32, 64, 128, 256)
    image, label = torch.randn(1, 1, 64, 64, 64), torch.randint(0, 3, (1, 1, 64, 64, 64))
    ours = train_step(UNet3D(filters=filters), lambda logits: dice_ce_loss(logits, label), image)
    theirs = monai_step(image, label, filters)
    assert ours.parameters == theirs.parameters
    ratios = []
    for number in range(6):
        times = {}
        for step in (ours, theirs) if number % 2 else (theirs, ours):
            start = time.process_time()
            step()
            times[step] = time.process_time() - start
        ratios.append(times[ours] / times[theirs])
    ratio = statistics.median(ratios[1:])
    print(f"U-Net training step against MONAI's DynUNet with DiceCELoss: {ratio:.3f}")
    assert ratio <= 1.05
