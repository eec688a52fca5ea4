"""Mini Go's dual network, in plain torch: one trunk, a policy head and a value head.

Shapes: B positions, n points per side, A = n*n + 1 actions (the last is the pass).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PLANES = 13
# TensorFlow's batch normalisation momentum 0.95 is 0.05 here.
BN_MOMENTUM = 0.05


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation, added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(width, width, 3), _norm(width)
        self.conv2, self.bn2 = _conv(width, width, 3), _norm(width)

    def forward(self, x_BCnn: Tensor) -> Tensor:
        hidden_BCnn = F.relu(self.bn1(self.conv1(x_BCnn)))
        return F.relu(self.bn2(self.conv2(hidden_BCnn)) + x_BCnn)


class DualNet(nn.Module):
    """Policy and value of a position; the defaults are the closed reference, 736,671 parameters.

    Args:
        size: Points per side of the board.
        width: Channels of the trunk.
        blocks: Residual blocks.
        fc_width: Hidden units of the value head.

    Source:
        mlcommons/training @ 9947bdf2, reinforcement/tensorflow/minigo/dual_net.py with
        ml_perf/flags/19/architecture.flags.
    """

    def __init__(
        self, *, size: int = 19, width: int = 64, blocks: int = 6, fc_width: int = 64
    ) -> None:
        super().__init__()
        self.size = size
        points = size * size
        self.conv, self.bn = _conv(PLANES, width, 3), _norm(width)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.policy_conv, self.policy_bn = _conv(width, 2, 1), _norm(2, affine=False)
        self.policy_fc = nn.Linear(2 * points, points + 1)
        self.value_conv, self.value_bn = _conv(width, 1, 1), _norm(1, affine=False)
        self.value_fc1, self.value_fc2 = nn.Linear(points, fc_width), nn.Linear(fc_width, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, planes_BPnn: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate positions.

        Args:
            planes_BPnn: The 13 input planes, float, 0 or 1.

        Returns:
            logits_BA: Policy before the softmax.
            value_B: In [-1, 1], from Black's point of view.
        """
        x_BCnn = self.blocks(F.relu(self.bn(self.conv(planes_BPnn))))
        policy = F.relu(self.policy_bn(self.policy_conv(x_BCnn)))
        value = F.relu(self.value_bn(self.value_conv(x_BCnn)))
        hidden = F.relu(self.value_fc1(value.flatten(1)))
        return self.policy_fc(policy.flatten(1)), torch.tanh(self.value_fc2(hidden)).squeeze(1)

    def layers(self) -> dict[str, nn.Module]:
        """Return the layers by their names in the published checkpoints, in the graph's order."""
        convs, norms = [self.conv], [self.bn]
        for block in self.blocks:
            assert isinstance(block, ResidualBlock)
            convs += [block.conv1, block.conv2]
            norms += [block.bn1, block.bn2]
        convs += [self.policy_conv, self.value_conv]
        norms += [self.policy_bn, self.value_bn]
        dense = [self.policy_fc, self.value_fc1, self.value_fc2]
        named: dict[str, nn.Module] = {}
        for stem, group in (("conv2d", convs), ("batch_normalization", norms), ("dense", dense)):
            named |= {f"{stem}_{i}" if i else stem: layer for i, layer in enumerate(group)}
        return named


def _conv(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)


def _norm(channels: int, *, affine: bool = True) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-5, momentum=BN_MOMENTUM, affine=affine)
