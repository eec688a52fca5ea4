"""ResNet v1.5 of bottleneck blocks: the closed division's image classification network.

Shapes: B batch, C channels, H W pixels, K classes. Parameter names are torchvision's, so its
weights load as they are.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EXPANSION = 4  # output channels of a block per channel of its 3x3 convolution
# Standard deviation of a unit normal truncated at +-2: dividing by it restores the variance.
TRUNCATED_STD = 0.87962566103423978
HEAD_STD = 0.01


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride: "v1.5") and 1x1 convolution, added to a shortcut."""

    def __init__(self, in_channels: int, width: int, stride: int, *, project: bool) -> None:
        super().__init__()
        out = width * EXPANSION
        self.conv1, self.bn1 = conv(in_channels, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, out, 1), nn.BatchNorm2d(out)
        self.downsample = (
            nn.Sequential(conv(in_channels, out, 1, stride), nn.BatchNorm2d(out))
            if project
            else None
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x_BCHW)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        shortcut = x_BCHW if self.downsample is None else self.downsample(x_BCHW)
        return F.relu(out + shortcut, inplace=True)


class ResNet(nn.Module):
    """ResNet-50 by default: 25,557,032 parameters with 1000 classes.

    Args:
        num_classes: Logits per image.
        width: Channels of the first stage; the later ones have 2, 4 and 8 times as many.
        blocks: Blocks per stage.

    Raises:
        ValueError: If a number is below 1 or there are not four stages.

    Source:
        mlcommons/training, image_classification/tensorflow2/resnet_model.py (v1.0). Differs: the
        stride-2 convolutions and the pooling pad one pixel on every side, as in torchvision and
        in accepted submissions, where TF pads right and bottom only.
    """

    def __init__(
        self, num_classes: int = 1000, width: int = 64, blocks: Sequence[int] = (3, 4, 6, 3)
    ) -> None:
        super().__init__()
        if len(blocks) != 4 or min(num_classes, width, *blocks) < 1:
            raise ValueError(
                "a ResNet needs num_classes and width of at least 1 and four stages of at least "
                f"one block; got {num_classes}, {width} and {list(blocks)}"
            )
        self.conv1, self.bn1 = conv(3, width, 7, 2), nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(width, width, blocks[0], 1)
        self.layer2 = _stage(width * EXPANSION, width * 2, blocks[1], 2)
        self.layer3 = _stage(width * 2 * EXPANSION, width * 4, blocks[2], 2)
        self.layer4 = _stage(width * 4 * EXPANSION, width * 8, blocks[3], 2)
        self.fc = nn.Linear(width * 8 * EXPANSION, num_classes)
        nn.init.normal_(self.fc.weight, std=HEAD_STD)
        nn.init.zeros_(self.fc.bias)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Classify images.

        Args:
            image_BCHW: C = 3, float; H and W at least 32, 224 in the closed division.

        Returns:
            logits_BK: Before softmax.
        """
        x = self.maxpool(F.relu(self.bn1(self.conv1(image_BCHW)), inplace=True))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Build a convolution without bias, padded by half its odd kernel, with initial weights."""
    layer = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    std = math.sqrt(2 / (in_channels * kernel**2)) / TRUNCATED_STD  # variance 2 / fan_in
    with torch.no_grad():
        nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    return layer


def _stage(in_channels: int, width: int, count: int, stride: int) -> nn.Sequential:
    first = Bottleneck(in_channels, width, stride, project=True)
    rest = [Bottleneck(width * EXPANSION, width, 1, project=False) for _ in range(count - 1)]
    return nn.Sequential(first, *rest)
