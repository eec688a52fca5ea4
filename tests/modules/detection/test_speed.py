"""Training steps against torchvision's at the same image sizes, as ratios within one run."""

import os
import statistics

import pytest
import torch
from torchvision.models import detection
from torchvision.ops import FrozenBatchNorm2d

from datamodules.coco import COCO300DataModule, COCOMaskDataModule
from modules.detection.contract import sum_of
from modules.detection.maskrcnn.net import MaskRCNN
from modules.detection.ssd.net import SSD300
from modules.detection.torchvision_detectors import TorchvisionMaskRCNN, TorchvisionSSD

ROUNDS = 3


def step(net, optimizer, inputs, targets):
    # Not the system's part: how often fresh memory faults is the allocator's luck.
    start = os.times().user
    optimizer.zero_grad()
    sum_of(net(*inputs, targets)).backward()
    optimizer.step()
    return os.times().user - start


def median_ratio(ours, theirs, inputs, targets):
    """Processor time of neighbours in time: the ratio of each pair, then their median."""
    optimizers = [
        torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=1e-4)
        for net in (ours, theirs)
    ]
    ratios = []
    for _ in range(ROUNDS + 1):
        mine, other = (
            step(net, optimizer, inputs, targets)
            for net, optimizer in zip((ours, theirs), optimizers, strict=True)
        )
        ratios.append(mine / other)
    return statistics.median(ratios[1:])  # the first round warms up


@pytest.mark.speed
@pytest.mark.slow
def test_ssd_step_is_no_slower_than_torchvision():
    batch = COCO300DataModule(batch_size=1).synthetic_batch()
    theirs = TorchvisionSSD("ssd300_vgg16")
    ratio = median_ratio(SSD300(), theirs, [batch["image"]], batch)
    print(f"SSD training step against torchvision's ssd300_vgg16: {ratio:.2f}")
    assert ratio <= 1.0


def crowd(batch, objects=160):
    """More objects than the 128 that a step samples.

    With few, both nets draw as many regions as their random proposals happen to hit, and the mask
    branch of one may work on twice as many as the other's.
    """
    height, width = batch["size"][0].tolist()
    corner = torch.rand(objects, 2) * torch.tensor([width - 40, height - 40])
    boxes = torch.cat([corner, corner + 16 + 20 * torch.rand(objects, 2)], 1)
    outlines = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(objects, 4, 2).numpy()
    labels = torch.randint(1, 81, (objects,))
    polygons = [[outline] for outline in outlines]
    return {**batch, "boxes": [boxes], "labels": [labels], "polygons": [polygons]}


@pytest.mark.speed
@pytest.mark.slow
def test_mask_rcnn_step_is_no_slower_than_torchvision():
    data = COCOMaskDataModule(batch_size=1, min_image_size=160, max_image_size=267)
    batch = crowd(data.synthetic_batch())
    theirs = TorchvisionMaskRCNN("maskrcnn_resnet50_fpn")
    theirs.detector = detection.MaskRCNN(
        detection.backbone_utils.resnet_fpn_backbone(
            backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d,
            trainable_layers=3,
        ),
        num_classes=81, _skip_resize=True,
    )  # fmt: skip
    ratio = median_ratio(MaskRCNN(), theirs, [batch["image"], batch["size"]], batch)
    print(f"Mask R-CNN training step against torchvision's maskrcnn_resnet50_fpn: {ratio:.2f}")
    assert ratio <= 1.0
