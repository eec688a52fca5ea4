"""FSDP2 on two ranks against one process: weights, losses, evaluation, precision."""

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import seed_everything
from torch import nn
from torch.distributed.tensor import DTensor

from recipes.cli.fsdp2 import precision_policy
from recipes.cli.strategy import build_strategy
from tests.ranks import on_ranks
from tests.toy import toy_trainer
from tests.toy_decoder import DecoderModule, TokenData

CLIP = 0.1  # below every norm of a gradient here
# What FSDP2 calls has another name since torch 2.14.
OLD = ("reduce_scatter_tensor", "all_gather_into_tensor")
NEW = ("reduce_scatter_single", "all_gather_single")
REDUCE, GATHER = NEW if hasattr(dist, NEW[0]) else OLD
PARTS, STEPS = 4, 3  # sharded parts of the decoder


class Watched(DecoderModule):
    """Keeps what training and evaluation did on the way."""

    def __init__(self):
        super().__init__()
        self.counts = dict.fromkeys((REDUCE, GATHER), 0)
        self.gathers = []  # within each evaluation, once it has begun

    def on_validation_epoch_start(self):
        super().on_validation_epoch_start()
        self.before = self.counts[GATHER]

    def on_validation_epoch_end(self):
        self.gathers.append(self.counts[GATHER] - self.before)
        super().on_validation_epoch_end()

    def configure_optimizers(self):
        watch = lambda layer, inputs: setattr(self, "computed_in", layer.weight.dtype)  # noqa: E731
        self.net.output.register_forward_pre_hook(watch)
        return super().configure_optimizers()

    def optimizer_step(self, *arguments):
        super().optimizer_step(*arguments)
        self.gradients = {name: whole(p.grad) for name, p in self.net.named_parameters()}


def train(strategy, devices, batch_size, accumulation, precision="32-true", evaluated=5):
    """Train and return what an observer sees: plain values and whole tensors."""
    seed_everything(11, verbose=False)
    module = Watched()
    trainer = toy_trainer(
        [], strategy=build_strategy(strategy, module), devices=devices, precision=precision,
        accumulate_grad_batches=accumulation, gradient_clip_val=CLIP, max_steps=STEPS,
        val_check_interval=accumulation, inference_mode=False,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name in (REDUCE, GATHER):
            patch.setattr(dist, name, counted(name, module.counts))
        trainer.fit(module, datamodule=TokenData(batch_size, evaluated))
    moments = trainer.optimizers[0].state[next(module.parameters())]["exp_avg"]
    return {
        "weights": {name: whole(p) for name, p in module.net.named_parameters()},
        "gradients": module.gradients,
        "moments": moments.dtype,
        "losses": module.losses,
        "values": module.values,
        "seen": module.seen,
        "sharded": isinstance(next(module.parameters()), DTensor),
        "computed_in": module.computed_in,
        "counts": module.counts,
        "gathers": module.gathers,
    }


def counted(name, counts):
    function = getattr(dist, name)

    def wrapper(*args, **kwargs):
        counts[name] += 1
        return function(*args, **kwargs)

    return wrapper


def whole(tensor):
    value = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return value.detach().numpy().copy()  # tensors would travel through shared memory


def close(first, second, **tolerance):
    assert first.keys() == second.keys()
    for name in first:
        one, two = torch.from_numpy(first[name]), torch.from_numpy(second[name])
        torch.testing.assert_close(one, two, **tolerance)


@pytest.fixture(scope="module")
def alone():
    return train("auto", 1, 8, 1)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    return on_ranks(2, tmp_path_factory.mktemp("meet"), train, "fsdp2", 2, 2, 2)


def test_two_ranks_with_accumulation_and_clipping_train_as_one(alone, together):
    for rank in together:
        assert rank["sharded"]
        close(rank["weights"], alone["weights"], rtol=1e-5, atol=1e-6)
        close(rank["gradients"], alone["gradients"], rtol=1e-4, atol=1e-6)
    mean = torch.tensor([rank["losses"] for rank in together]).mean(0).reshape(-1, 2).mean(1)
    torch.testing.assert_close(mean, torch.tensor(alone["losses"]))


def test_gradients_are_reduced_once_a_step_and_weights_gathered_before_an_evaluation(together):
    for rank in together:
        assert rank["counts"][REDUCE] == PARTS * STEPS
        assert rank["counts"][GATHER] >= PARTS * STEPS
        assert rank["gathers"] == [0] * STEPS


def test_each_sample_is_evaluated_once_on_one_of_the_ranks(alone, together):
    assert [rank["seen"] for rank in together] == [[0, 2, 4] * 3, [1, 3] * 3]
    assert together[0]["values"] == together[1]["values"]
    for (total, count), (expected, _) in zip(together[0]["values"], alone["values"], strict=True):
        assert count == 5
        assert total == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_more_ranks_than_samples_still_evaluate(tmp_path, alone):
    results = on_ranks(2, tmp_path, train, "fsdp2", 2, 4, 1, "32-true", 1)
    assert results[0]["values"] == results[1]["values"]
    assert results[0]["values"][0][1] == 2  # both took it: the mean is the same


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_bf16_gathers_bf16_weights_and_keeps_fp32_ones(ranks, tmp_path):
    plain = train("auto", 1, 8, 1, "bf16-mixed")
    assert plain["computed_in"] is torch.float32
    for result in on_ranks(ranks, tmp_path, train, "fsdp2", ranks, 2, 4 // ranks, "bf16-mixed"):
        assert result["computed_in"] is torch.bfloat16
        assert result["moments"] is torch.float32
        assert all(weight.dtype == "float32" for weight in result["weights"].values())
        assert all(gradient.dtype == "float32" for gradient in result["gradients"].values())
        close(result["gradients"], plain["gradients"], rtol=0.05, atol=2e-3)
        assert result["values"][-1][0] == pytest.approx(plain["values"][-1][0], rel=5e-3)


def test_batch_norm_keeps_fp32_weights():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    assert precision_policy(net, "bf16-mixed").param_dtype is None
    assert precision_policy(nn.Linear(1, 1), "32-true").param_dtype is None
    policy = precision_policy(nn.Linear(1, 1), "bf16-mixed")
    assert (policy.param_dtype, policy.reduce_dtype) == (torch.bfloat16, torch.float32)
