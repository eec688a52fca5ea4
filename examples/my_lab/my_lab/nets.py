"""Networks of our own for finishline's 3D U-Net benchmark (KiTS19).

Shapes: B batch, C channels, D H W voxels.
"""

import torch
from torch import Tensor, nn


class HalfResolutionNet(nn.Module):
    """Residual blocks at half resolution, concatenated with the image before the last convolution.

    Args:
        width: Channels at half resolution.
        num_blocks: Residual blocks.
        num_classes: Output channels, including the background (3 for KiTS19).
    """

    def __init__(self, *, width: int = 16, num_blocks: int = 2, num_classes: int = 3) -> None:
        super().__init__()
        self.down = nn.Conv3d(1, width, 2, stride=2)
        self.blocks = nn.ModuleList(_block(width) for _ in range(num_blocks))
        self.up = nn.ConvTranspose3d(width, width, 2, stride=2)
        self.head = nn.Conv3d(width + 1, num_classes, 3, padding=1)

    def forward(self, image_BCDHW: Tensor) -> Tensor:
        """Return one logit per class for every voxel.

        Args:
            image_BCDHW: Normalised intensities, float, C = 1; D, H and W even.

        Returns:
            logits_BCDHW: C = ``num_classes``, before softmax; D, H and W of the input.
        """
        x = self.down(image_BCDHW)
        for block in self.blocks:
            x = x + block(x)
        logits_BCDHW: Tensor = self.head(torch.cat((self.up(x), image_BCDHW), dim=1))
        return logits_BCDHW


def _block(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(width, width, 3, padding=1, bias=False),
        nn.InstanceNorm3d(width, affine=True),
        nn.ReLU(),
        nn.Conv3d(width, width, 3, padding=1, bias=False),
        nn.InstanceNorm3d(width, affine=True),
    )
