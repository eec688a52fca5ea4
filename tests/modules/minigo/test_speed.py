"""A training step of the closed network against a plain tower, as a ratio within one run."""

import statistics
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modules.minigo import MiniGoModule
from modules.minigo.net import DualNet

POINTS, WIDTH, BLOCKS, BATCH = 19, 64, 6, 8
PAIRS = 8


def conv(inputs, outputs, kernel=3):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


class Tower(nn.Module):
    """AlphaGo Zero's network as one writes it down."""

    def __init__(self):
        super().__init__()
        points = POINTS * POINTS
        self.first = conv(13, WIDTH)
        self.pairs = nn.ModuleList(
            nn.Sequential(conv(WIDTH, WIDTH), nn.ReLU(), conv(WIDTH, WIDTH)) for _ in range(BLOCKS)
        )
        self.policy = nn.Sequential(
            conv(WIDTH, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2 * points, points + 1)
        )
        self.value = nn.Sequential(
            conv(WIDTH, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(points, 64), nn.ReLU(),
            nn.Linear(64, 1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, planes):
        x = self.first(planes).relu()
        for pair in self.pairs:
            x = (x + pair(x)).relu()
        return self.policy(x), self.value(x)[:, 0]


@pytest.mark.speed
@pytest.mark.slow
def test_a_step_takes_the_time_of_a_plain_towers():
    module = MiniGoModule(net=DualNet)
    module._trainer = SimpleNamespace(log_every_n_steps=0)
    tower = Tower()
    assert abs(sum(p.numel() for p in tower.parameters()) - 736_671) < 10
    actions = POINTS * POINTS + 1
    batch = {
        "planes": torch.randint(0, 2, (BATCH, 13, POINTS, POINTS), dtype=torch.uint8),
        "pi": torch.rand(BATCH, actions).softmax(-1),
        "outcome": torch.randint(0, 2, (BATCH,)) * 2.0 - 1,
    }

    def loss_of_tower():
        policy, value = tower(batch["planes"].float())
        return F.cross_entropy(policy, batch["pi"]) + F.mse_loss(value, batch["outcome"])

    optimizers = (
        module.configure_optimizers()["optimizer"],
        torch.optim.SGD(tower.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4),
    )
    losses = (lambda: module.training_step(batch, 0)), loss_of_tower

    def seconds(which):
        start = time.process_time()
        optimizers[which].zero_grad()
        losses[which]().backward()
        optimizers[which].step()
        return time.process_time() - start

    ratios = []
    for number in range(PAIRS + 1):
        times = {which: seconds(which) for which in ((0, 1) if number % 2 else (1, 0))}
        ratios.append(times[0] / times[1])
    ratio = statistics.median(ratios[1:])  # the first pair warms up
    print(f"Mini Go's training step / a plain tower's: {ratio:.3f}")
    assert ratio <= 1.05
