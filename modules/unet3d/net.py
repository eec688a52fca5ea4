"""The 3D U-Net of MLPerf Training v1.0, in plain torch.

Shapes: B batch, C channels, D H W voxels. Blocks bear the names that the reference logs:
``input_block``, ``down0`` ..., ``up0`` ..., ``output_conv``.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from modules.unet3d.instance_norm import InstanceNorm3d


class ConvBlock(nn.Module):
    """A 3x3x3 convolution without bias, instance normalisation and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm = InstanceNorm3d(out_channels, eps=1e-5, affine=True)

    def forward(self, x_BCDHW: Tensor) -> Tensor:
        return torch.relu_(self.norm(self.conv(x_BCDHW)))


class UpBlock(nn.Module):
    """Double the resolution, join the skip connection and convolve twice.

    As in the reference, the up-convolution has a bias, no normalisation and no activation.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.deconv = nn.ConvTranspose3d(in_channels, out_channels, 2, stride=2)
        self.block = double_conv(2 * out_channels, out_channels)

    def forward(self, x_BCDHW: Tensor, skip_BCDHW: Tensor) -> Tensor:
        # The reference's weights need this order: upsampled, then skip connection.
        merged: Tensor = self.block(torch.cat((self.deconv(x_BCDHW), skip_BCDHW), dim=1))
        return merged


def double_conv(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Sequential:
    """Build two conv blocks; a stride of 2 in the first halves D, H and W."""
    return nn.Sequential(
        ConvBlock(in_channels, out_channels, stride=stride),
        ConvBlock(out_channels, out_channels),
    )


class UNet3D(nn.Module):
    """The closed-division network: 31,190,243 parameters and 954.6 GFLOP per forward of 128^3.

    Weights start as torch initialises them, uniform within 1/sqrt(fan_in); nothing is pretrained.

    Args:
        in_channels: Image channels (1 for CT).
        num_classes: Output channels, background included (3 for KiTS19).
        filters: Channels of each level from full resolution down to the bottleneck; every level
            after the first halves D, H and W.

    Raises:
        ValueError: If ``filters`` has fewer than two levels.

    Source:
        mlcommons/training @ 9947bdf2, image_segmentation/pytorch/model/unet3d.py and
        layers.py. Differs: the number of levels is an argument, and the bottleneck is its last
        entry.
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        num_classes: int = 3,
        filters: Sequence[int] = (32, 64, 128, 256, 320, 320),
    ) -> None:
        super().__init__()
        if len(filters) < 2:
            raise ValueError(f"filters needs at least 2 levels, got {list(filters)}")
        self.side_multiple = 2 ** (len(filters) - 1)
        self.input_block = double_conv(in_channels, filters[0])
        self.down = nn.ModuleList(double_conv(i, o, stride=2) for i, o in pairwise(filters))
        self.up = nn.ModuleList(UpBlock(i, o) for i, o in pairwise(tuple(filters)[::-1]))
        self.output_conv = nn.Conv3d(filters[0], num_classes, 1)

    def forward(self, image_BCDHW: Tensor) -> Tensor:
        """Compute one logit per class for every voxel.

        Args:
            image_BCDHW: Normalised intensities, float; D, H and W multiples of
                ``2 ** (len(filters) - 1)`` (32 for the reference).

        Returns:
            logits_BCDHW: C = ``num_classes``, before softmax; D, H and W of the input.

        Raises:
            ValueError: If a side is not such a multiple.
        """
        if any(side % self.side_multiple for side in image_BCDHW.shape[2:]):
            raise ValueError(
                f"UNet3D needs sides that are multiples of {self.side_multiple}, "
                f"got an input of shape {tuple(image_BCDHW.shape)}"
            )
        x = self.input_block(image_BCDHW)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(x)
        for up in self.up:
            x = up(x, skips.pop())
        logits_BCDHW: Tensor = self.output_conv(x)
        return logits_BCDHW

    def tensor_names(self) -> list[str]:
        """Return the reference's layer names in the order of the forward pass."""
        layers = ("0_conv", "0_instancenorm", "1_conv", "1_instancenorm")
        names = [f"input_block_{layer}" for layer in layers]
        for level in range(len(self.down)):
            names += [f"down{level}_block_{layer}" for layer in layers]
        for level in range(len(self.up)):
            names += [f"up{level}_deconv", *(f"up{level}_block_{layer}" for layer in layers)]
        return [*names, "output_conv"]
