"""The warm-up leaves weights, buffers, gradients and random numbers as they were."""

import pytest
import torch
from torch import nn

from callbacks.fused_optimizer import fuse, fused
from callbacks.quality_target import QualityTarget
from callbacks.warm_up import WarmUp
from modules.common.lamb import Lamb
from tests.toy import FakeTime, ToyData, ToyModule, fake_state, toy_trainer


class WithStatistics(ToyModule):
    def __init__(self):
        super().__init__([0.0])
        self.net = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5), nn.Linear(2, 1))
        self.before = None

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train/loss", loss)  # refused by Lightning outside its loop
        return loss

    def on_train_start(self):
        self.before = {name: value.clone() for name, value in self.net.state_dict().items()}
        assert all(p.grad is None for p in self.parameters())


def run(steps):
    torch.manual_seed(1)
    module = WithStatistics()
    start = {name: value.clone() for name, value in module.net.state_dict().items()}
    warm_up = WarmUp(steps)
    target = QualityTarget({"score": 1.0}, "max", state=fake_state(FakeTime()))
    toy_trainer([warm_up, target], max_epochs=1).fit(module, datamodule=ToyData())
    assert all(torch.equal(start[name], module.before[name]) for name in start)
    return module, warm_up


def test_warm_up_changes_nothing_of_the_run():
    without, _ = run(0)
    with_warm_up, _ = run(3)
    steps = with_warm_up.losses[3:]  # the toy also notes the warm-up's own losses
    assert steps == without.losses


def test_warming_up_the_evaluation_leaves_frozen_parts_in_evaluation_mode():
    class Frozen(WithStatistics):
        def warm_up_evaluation(self):
            assert not self.training

        def on_train_start(self):
            modes.extend(part.training for part in self.net.children())

    module, modes = Frozen(), []
    module.net[0].eval()
    toy_trainer([WarmUp(1)], max_epochs=1).fit(module, datamodule=ToyData())
    assert modes == [False, True, True]


@pytest.mark.parametrize("steps", [0, 2])
def test_the_net_is_compiled_in_the_mode_that_was_asked_for(steps, monkeypatch):
    modes, module = [], WithStatistics()
    monkeypatch.setattr(module.net, "compile", lambda *, mode: modes.append(mode))
    warm_up = WarmUp(steps, compile=True, compile_mode="reduce-overhead")
    toy_trainer([warm_up], max_epochs=1).fit(module, datamodule=ToyData())
    assert modes == ["reduce-overhead"]


def test_cuda_graphs_are_refused_where_gradients_are_accumulated():
    warm_up = WarmUp(compile=True, compile_mode="reduce-overhead")
    trainer = toy_trainer([warm_up], max_epochs=1, accumulate_grad_batches=2)
    with pytest.raises(ValueError, match="overwrite gradients .* 2 batches"):
        trainer.fit(WithStatistics(), datamodule=ToyData())


def test_warm_up_counts_flops_per_sample():
    _, warm_up = run(1)
    # A linear layer 2 -> 1: 4 FLOP forward, 4 for its weight, 4 for the input of batch norm.
    assert warm_up.flops_per_sample == pytest.approx(12)
    assert run(0)[1].flops_per_sample is None


def test_analytic_flops_replace_the_counter():
    class Analytic(WithStatistics):
        def train_flops(self, batch):
            return 1000

    module, warm_up = Analytic(), WarmUp(1)
    target = QualityTarget({"score": 1.0}, "max", state=fake_state(FakeTime()))
    toy_trainer([warm_up, target], max_epochs=1).fit(module, datamodule=ToyData())
    assert warm_up.flops_per_sample == 500


@pytest.mark.parametrize(("precision", "tf32"), [("highest", False), ("high", True)])
def test_one_flag_says_whether_fp32_may_be_tf32(precision, tf32, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", not tf32)
    before = torch.get_float32_matmul_precision()
    warm_up = WarmUp(0, matmul_precision=precision)
    toy_trainer([warm_up], max_epochs=1).fit(ToyModule([0.0]), datamodule=ToyData())
    assert torch.backends.cudnn.allow_tf32 is tf32
    assert torch.get_float32_matmul_precision() == precision
    torch.set_float32_matmul_precision(before)


def test_fused_kernels_take_the_same_steps():
    kernels, weights = [], []
    for flag in (False, True):
        torch.manual_seed(0)
        module = ToyModule([0.0])
        trainer = toy_trainer([WarmUp(fused_optimizer=flag)], max_epochs=2)
        trainer.fit(module, datamodule=ToyData())
        kernels.append([group["fused"] for group in trainer.optimizers[0].param_groups])
        weights.append(module.net.weight.detach().clone())
    assert kernels == [[None], [True]]
    assert torch.allclose(*weights, rtol=1e-6, atol=0)


def test_an_optimizer_without_fused_kernels_is_named():
    with pytest.raises(ValueError, match="fused_optimizer: Lamb has no fused kernels"):
        fuse(Lamb([torch.nn.Parameter(torch.ones(2))]))


def test_a_module_has_fused_optimizers_within_the_variant_only():
    module = ToyModule()
    with fused(module):
        assert module.configure_optimizers().param_groups[0]["fused"]
    assert not module.configure_optimizers().param_groups[0]["fused"]
