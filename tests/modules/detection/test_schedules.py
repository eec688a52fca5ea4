"""Learning rates and parameter groups of SSD and Mask R-CNN, against the references' own loops."""

from bisect import bisect_right
from types import SimpleNamespace

import pytest
import torch

from modules.maskrcnn import MaskRCNNModule
from modules.ssd import SSDModule


class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)


@pytest.fixture
def attach(monkeypatch):
    """Give a module a stand-in trainer with a data module of these attributes."""

    def attached(module, **data):
        trainer = SimpleNamespace(
            datamodule=SimpleNamespace(**data), world_size=1, accumulate_grad_batches=1
        )
        monkeypatch.setattr(type(module), "trainer", trainer, raising=False)
        return module

    return attached


def rates(module, steps):
    """Rate of every parameter group in each step, stepped as Lightning steps the scheduler."""
    configured = module.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    assert configured["lr_scheduler"]["interval"] == "step"
    rows = []
    for _ in range(steps):
        rows.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return rows


@pytest.mark.parametrize(
    ("factor", "warmup", "boundaries"),
    [(0, 1.55, (3, 5)), (1, 1.55, (3, 5)), (0, 4.2, (3, 5)), (1, 5.5, (2, 5)), (0, 3.0, (3, 5))],
)
def test_ssd_rates_equal_the_reference_loop(factor, warmup, boundaries, attach):
    batch, samples, epoch_steps = 64, 640, 10
    module = SSDModule(
        net=Tiny, warmup_epochs=warmup, warmup_factor=factor, decay_boundary_epochs=boundaries
    )
    attach(
        module,
        batch_size=batch,
        global_batch_size=batch,
        samples_per_epoch=640,
        num_train_samples=samples,
    )
    # mlcommons/training, single_stage_detector/ssd/train.py: lr_warmup and the epoch loop.
    current, wanted, last = 2.5e-3 * batch / 32, [], None
    warmup_steps = int(warmup * samples / batch)
    for iteration in range(7 * epoch_steps):
        if iteration % epoch_steps == 0 and iteration // epoch_steps in boundaries:
            current *= 0.1
            last = current
        if iteration < warmup_steps:
            last = current - (warmup_steps - iteration) * current / (warmup_steps * 2**factor)
        wanted.append(last)
    assert [row[0] for row in rates(module, 7 * epoch_steps)] == pytest.approx(wanted, rel=1e-9)
    assert module.peak_learning_rate == pytest.approx(max(wanted), rel=1e-9)


def test_ssd_group_has_the_reference_momentum_and_decay(attach):
    module = attach(
        SSDModule(net=Tiny),
        batch_size=32,
        global_batch_size=32,
        samples_per_epoch=64,
        num_train_samples=64,
    )
    (group,) = module.configure_optimizers()["optimizer"].param_groups
    assert (group["momentum"], group["weight_decay"], len(group["params"])) == (0.9, 5e-4, 2)


def test_maskrcnn_rates_and_groups_equal_the_reference(attach):
    module = attach(
        MaskRCNNModule(net=Tiny, warmup_steps=8, warmup_deficit=0.02 / 10, decay_steps=(15, 20))
    )
    # maskrcnn_benchmark/solver: build.py's groups, WarmupMultiStepLR "mlperf_linear", which is
    # stepped before the first optimizer step.
    wanted = []
    for step in range(1, 26):
        delta = max(8 - step, 0) * 0.02 / 10
        drops = 0.1 ** bisect_right([15, 20], step)
        wanted.append([(base - delta) * drops for base in (0.02, 0.04)])
    got = rates(module, 25)
    for row, expected in zip(got, wanted, strict=True):
        assert row == pytest.approx(expected, rel=1e-9)
    weights, biases = module.configure_optimizers()["optimizer"].param_groups
    assert (weights["weight_decay"], biases["weight_decay"]) == (1e-4, 0.0)
    assert (weights["momentum"], biases["momentum"]) == (0.9, 0.9)
    assert weights["params"] == [module.net.layer.weight]
    assert biases["params"] == [module.net.layer.bias]


# mlcommons/logging, rcp_checker/training_1.0.0/rcps_maskrcnn.json: rate, steps, deficit.
POINTS = [(0.06, 800, 9.6e-5), (0.08, 800, 1e-4), (0.12, 625, 1.92e-4), (0.16, 625, 2.56e-4),
          (0.24, 1800, 1.33e-4)]  # fmt: skip


@pytest.mark.parametrize(("rate", "steps", "deficit"), POINTS)
def test_every_published_maskrcnn_point_trains(rate, steps, deficit):
    """The one at batch 48 starts below 0, as its reference does."""
    module = MaskRCNNModule(
        net=Tiny, learning_rate=rate, warmup_steps=steps, warmup_deficit=deficit
    )
    assert module.step_learning_rate(0) == pytest.approx(rate - (steps - 1) * deficit)
    assert module.step_learning_rate(0, 2.0) > 0
    assert module.step_learning_rate(steps) == rate


def test_warm_up_that_starts_even_the_biases_below_zero_is_refused():
    with pytest.raises(ValueError, match="even the biases would start below 0"):
        MaskRCNNModule(net=Tiny, learning_rate=0.02, warmup_steps=500, warmup_deficit=1e-4)
