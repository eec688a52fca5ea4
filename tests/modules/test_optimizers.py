"""Rates, weight decay and groups that all modules train with, against the references' loops.

Each loop is written as its reference writes it (mlcommons/training v1.0; facebookresearch/dlrm for
DLRM). The loops of SSD and Mask R-CNN are in detection/test_schedules.py.
"""

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from modules.bert import BertModule
from modules.dlrm import DLRMModule
from modules.minigo import MiniGoModule
from modules.resnet import ResNetModule
from modules.rnnt import RNNTModule
from modules.unet3d import UNet3DModule

STEMS = sorted(p.stem for p in (Path(__file__).parents[2] / "recipes").glob("[a-z]*.py"))
EPOCH_STEPS = 10


class Tiny(nn.Module):
    """Every kind of parameter: kernels, a table, biases, gains and shifts of two norms."""

    num_labels, size = 4, 5

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        self.batch_norm, self.layer_norm = nn.BatchNorm2d(4), nn.LayerNorm(4)
        self.table = nn.Embedding(6, 4)


KERNELS = {"conv.weight", "linear.weight", "table.weight"}
BIASES = {"conv.bias", "linear.bias"}
GAINS, SHIFTS = (
    {"batch_norm.weight", "layer_norm.weight"},
    {"batch_norm.bias", "layer_norm.bias"},
)
ALL = KERNELS | BIASES | GAINS | SHIFTS


def make(module_class, **settings):
    """A module under a stand-in trainer: 640 samples, ten steps of 64 in an epoch."""
    module = module_class(net=Tiny, **settings)
    data = SimpleNamespace(
        batch_size=64,
        global_batch_size=64,
        samples_per_epoch=64 * EPOCH_STEPS,
        num_train_samples=64 * EPOCH_STEPS,
    )
    module._trainer = SimpleNamespace(datamodule=data, world_size=1, accumulate_grad_batches=1)
    if "net" not in module._modules:
        module.net = Tiny()  # built later, by DLRM only with the reference's outputs
    return module


def rates(module, count, *, each="step"):
    """Rate of every step (or epoch), equal in all groups, as Lightning drives the scheduler."""
    configured = module.configure_optimizers()
    optimizer, plan = configured["optimizer"], configured["lr_scheduler"]
    assert plan["interval"] == each
    rows = []
    for _ in range(count):
        (rate,) = {group["lr"] for group in optimizer.param_groups}
        rows.append(rate)
        optimizer.step()
        plan["scheduler"].step()
    return rows


def close(wanted):
    return pytest.approx(wanted, rel=1e-12, abs=1e-15)


# Rates.


@pytest.mark.parametrize(
    ("warmup", "boundaries", "factor"), [(0, (), 1.0), (4, (6, 9), 0.5), (5, (2, 5, 5), 0.1)]
)
def test_unet3d_rates_equal_the_reference_loop(warmup, boundaries, factor):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.8)
    decay = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(boundaries), factor)
    wanted = []
    for epoch in range(1, 16):
        if epoch <= warmup:
            optimizer.param_groups[0]["lr"] = 1e-4 + (0.8 - 1e-4) * epoch / warmup
        wanted.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        decay.step()
    module = make(
        UNet3DModule,
        warmup_epochs=warmup,
        decay_boundary_epochs=boundaries,
        decay_factor=factor,
    )
    assert rates(module, 15, each="epoch") == close(wanted)


@pytest.mark.parametrize("optimizer", ["lars", "sgd"])
@pytest.mark.parametrize(("warmup", "epochs"), [(2, 6), (0.5, 3), (1, 4)])
def test_resnet_rates_equal_the_reference_loop(optimizer, warmup, epochs):
    # tensorflow2/lars_util.py: PolynomialDecayWithWarmup, evaluated before each step.
    warmup_steps, wanted = warmup * EPOCH_STEPS, []
    decay_steps = epochs * EPOCH_STEPS - warmup_steps + 1
    for step in range(7 * EPOCH_STEPS):
        if step <= warmup_steps:
            wanted.append(10.5 * step / warmup_steps)
        else:
            done = min(step - warmup_steps, decay_steps)
            wanted.append((10.5 - 1e-4) * (1 - done / decay_steps) ** 2 + 1e-4)
    module = make(ResNetModule, optimizer=optimizer, warmup_epochs=warmup, train_epochs=epochs)
    assert rates(module, 7 * EPOCH_STEPS) == close(wanted)
    assert wanted[0] == 0.0
    assert wanted[-1] == 1e-4 or epochs == 6


def test_rnnt_rates_equal_the_reference_loop():
    # rnn_speech_recognition/pytorch/common/optimizers.py: lr_policy, called with the step from 1.
    warmup, hold, gamma, least, wanted, step = 2, 3, 0.5, 1e-4, [], 1
    for epoch in range(1, 13):
        for _ in range(EPOCH_STEPS):
            if step < warmup * EPOCH_STEPS:
                share = (step + 1) / (warmup * EPOCH_STEPS + 1)
            elif step < (warmup + hold) * EPOCH_STEPS:
                share = 1.0
            else:
                share = gamma ** (epoch - warmup - hold)
            wanted.append(max(share * 0.004, least))
            step += 1
    module = make(
        RNNTModule,
        warmup_epochs=warmup,
        hold_epochs=hold,
        decay_factor=gamma,
        min_learning_rate=least,
    )
    assert rates(module, 12 * EPOCH_STEPS) == close(wanted)
    assert wanted[-1] == least


@pytest.mark.parametrize(("warmup", "start"), [(0, 0), (0, -5), (12, 0), (12, -4)])
def test_bert_rates_equal_the_reference_loop(warmup, start):
    # language_model/tensorflow/bert/optimization.py: create_optimizer with tf's polynomial_decay.
    wanted = []
    for step in range(50):
        rate = 3.5e-4 * (1 - min(step, 40) / 40)
        if warmup and step - start < warmup:
            rate = 3.5e-4 * (step - start) / warmup
        wanted.append(rate)
    module = make(BertModule, training_steps=40, warmup_steps=warmup, start_warmup_step=start)
    assert rates(module, 50) == close(wanted)


@pytest.mark.parametrize(
    ("warmup", "start", "length", "base"), [(6, 15, 20, 24.0), (6, 6, 9, 1e-6), (8, 0, 0, 2.0)]
)
def test_dlrm_rates_equal_the_reference_loop(warmup, start, length, base):
    # dlrm_s_pytorch.py: LRPolicyScheduler.get_lr, whose count is 1 at the first step.
    wanted, last = [], None
    for count in range(1, 51):
        if count < warmup:
            last = base * (1.0 - (warmup - count) / warmup)
        elif length and start <= count < start + length:
            last = max(1e-7, base * ((length - (count - start)) / length) ** 2)
        wanted.append(last)
    module = make(
        DLRMModule,
        learning_rate=base,
        warmup_steps=warmup,
        decay_start_step=start,
        decay_steps=length,
    )
    assert rates(module, 50) == close(wanted)


@pytest.mark.parametrize("trained", [0, 3, 8])
def test_minigo_rates_equal_the_reference_loop(trained):
    # tf.train.piecewise_constant: a boundary still has the rate before it; the global step is the
    # given checkpoint's and counts on.
    boundaries, values, wanted = (4, 8), (0.016, 0.16, 0.0016), []
    for step in range(trained, trained + 12):
        if step <= boundaries[0]:
            wanted.append(values[0])
        elif step <= boundaries[1]:
            wanted.append(values[1])
        else:
            wanted.append(values[2])
    module = make(MiniGoModule, size=5, lr_boundaries=boundaries, lr_rates=values)
    module.start_step = trained
    assert rates(module, 12) == wanted


# Groups: which parameters have which settings at the closed defaults.

SGD = {"momentum": 0.9, "dampening": 0, "nesterov": False}
LAMB = {"betas": (0.9, 0.999)}
ADAM = {"betas": (0.9, 0.95), "eps": 1e-5, "amsgrad": False, "maximize": False}
# Stem -> class of the optimizer and, for each group, its parameters and settings.
CLOSED = {
    "unet3d": ("SGD", [(ALL, {**SGD, "nesterov": True, "weight_decay": 0.0})]),
    "resnet": (
        "LARS",
        [
            (KERNELS, {"momentum": 0.9, "weight_decay": 5e-5, "adapt": True, "eta": 0.001}),
            (BIASES | GAINS | SHIFTS, {"momentum": 0.9, "weight_decay": 0.0, "adapt": False}),
        ],
    ),
    "rnnt": ("Lamb", [(ALL, {**LAMB, "eps": 1e-9, "weight_decay": 1e-3, "max_grad_norm": 1.0})]),
    "ssd": ("SGD", [(ALL, {**SGD, "weight_decay": 5e-4})]),
    "maskrcnn": (
        "SGD",
        [
            (KERNELS | GAINS, {**SGD, "weight_decay": 1e-4}),
            (BIASES | SHIFTS, {**SGD, "weight_decay": 0.0}),
        ],
    ),
    "bert": (
        "Lamb",
        [
            (KERNELS, {**LAMB, "eps": 1e-6, "weight_decay": 0.01, "max_grad_norm": 1.0}),
            (BIASES | GAINS | SHIFTS, {**LAMB, "eps": 1e-6, "weight_decay": 0.0}),
        ],
    ),
    "dlrm": ("SparseSGD", [(ALL, {})]),
    "dlrm_dcnv2": ("SparseAdagrad", [(ALL, {"eps": 1e-8})]),
    **dict.fromkeys(
        ("llama31_8b", "gpt_oss_20b"),
        (
            "AdamW",
            [
                (KERNELS, {**ADAM, "weight_decay": 0.1}),
                (BIASES | GAINS | SHIFTS, {**ADAM, "weight_decay": 0.0}),
            ],
        ),
    ),
    "minigo": (
        "SGD",
        [
            (KERNELS | GAINS, {**SGD, "weight_decay": 1e-4}),
            (BIASES | SHIFTS, {**SGD, "weight_decay": 0.0}),
        ],
    ),
}
# Stem -> rates of the first two steps, one per group, at batch 64 and ten steps an epoch.
FIRST_RATES = {
    "unet3d": [[1e-4 + 0.7999 / 200], [1e-4 + 2 * 0.7999 / 200]],
    "resnet": [[0.0, 0.0], [10.5 / 20, 10.5 / 20]],
    "rnnt": [[0.004 * 2 / 61], [0.004 * 3 / 61]],
    "ssd": [[0.0], [5e-3 / 26]],
    "maskrcnn": [[0.02 - 499 * 2.6667e-5, 0.04 - 499 * 2.6667e-5]],
    "bert": [[3.5e-4] * 2, [3.5e-4 * (1 - 1 / 13700)] * 2],
    "dlrm": [[24 / 2750], [48 / 2750]],
    "dlrm_dcnv2": [[0.004]] * 2,
    "minigo": [[0.016, 0.016]] * 2,
    "llama31_8b": [[4e-4 / 17] * 2, [8e-4 / 17] * 2],
    "gpt_oss_20b": [[0.0] * 2, [4e-4 / 128] * 2],
}


def closed(stem, **settings):
    module_class = importlib.import_module(f"recipes.{stem}").BENCHMARK.module_class()
    return make(module_class, **({"size": 5} if stem == "minigo" else {}), **settings)


def test_every_recipe_is_here():
    assert STEMS
    assert sorted(CLOSED) == sorted(FIRST_RATES) == STEMS


@pytest.mark.parametrize("stem", STEMS)
def test_closed_groups_have_the_references_settings(stem):
    module = closed(stem)
    names = {id(weight): name for name, weight in module.net.named_parameters()}
    optimizer = module.configure_optimizers()["optimizer"]
    kind, wanted = CLOSED[stem]
    assert type(optimizer).__name__ == kind
    groups = [(sorted(names[id(w)] for w in g["params"]), g) for g in optimizer.param_groups]
    assert [params for params, _ in groups] == [sorted(params) for params, _ in wanted]
    for (_, group), (_, settings) in zip(groups, wanted, strict=True):
        own = {**vars(optimizer), **group}  # LAMB's clipping is one for all groups
        assert {name: own[name] for name in settings} == settings


@pytest.mark.parametrize("stem", STEMS)
def test_closed_first_rates_are_the_references(stem):
    configured = closed(stem).configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    for wanted in FIRST_RATES[stem]:
        assert [group["lr"] for group in optimizer.param_groups] == close(wanted)
        optimizer.step()
        scheduler.step()


OTHER_SGD = {"momentum": 0.7, "weight_decay": 0.03}
OTHER_LAMB = {"betas": (0.6, 0.7), "eps": 1e-3, "weight_decay": 0.03, "max_grad_norm": 5.0}
RNNT_NAMES = {"beta1": 0.6, "beta2": 0.7, "epsilon": 1e-3, "gradient_clip_norm": 5.0}


@pytest.mark.parametrize(
    ("stem", "settings", "wanted"),
    [(stem, OTHER_SGD, OTHER_SGD) for stem in ("unet3d", "resnet", "ssd", "maskrcnn", "minigo")]
    + [
        ("rnnt", {**RNNT_NAMES, "weight_decay": 0.03}, OTHER_LAMB),
        ("bert", OTHER_LAMB, OTHER_LAMB),
    ],
)
def test_settings_other_than_the_optimizers_defaults_reach_it(stem, settings, wanted):
    optimizer = closed(stem, **settings).configure_optimizers()["optimizer"]
    own = {**vars(optimizer), **optimizer.param_groups[0]}
    assert {name: own[name] for name in wanted} == wanted


def test_rnnt_without_a_limit_does_not_clip():
    module = make(RNNTModule, gradient_clip_norm=float("inf"))
    assert module.configure_optimizers()["optimizer"].max_grad_norm is None


def test_maskrcnn_leaves_frozen_parameters_out():
    module = closed("maskrcnn")
    for frozen in module.net.conv.parameters():
        frozen.requires_grad_(False)
    groups = module.configure_optimizers()["optimizer"].param_groups
    names = {id(weight): name for name, weight in module.net.named_parameters()}
    trained = [{names[id(w)] for w in g["params"]} for g in groups]
    assert trained == [(KERNELS | GAINS) - {"conv.weight"}, (BIASES | SHIFTS) - {"conv.bias"}]


def test_minigo_goes_on_with_the_checkpoints_momentum():
    module = closed("minigo")
    slot = torch.arange(4.0)
    module._momentum = {"conv.bias": slot}
    state = module.configure_optimizers()["optimizer"].state
    assert torch.equal(state[module.net.conv.bias]["momentum_buffer"], slot)
    assert module.net.linear.bias not in state


def test_resnet_sgd_decays_all_but_norms_by_twice_the_figure():
    module = make(ResNetModule, optimizer="sgd", weight_decay=1e-4)
    names = {id(weight): name for name, weight in module.net.named_parameters()}
    groups = module.configure_optimizers()["optimizer"].param_groups
    assert [{names[id(w)] for w in g["params"]} for g in groups] == [
        KERNELS | BIASES,
        GAINS | SHIFTS,
    ]
    assert [(g["weight_decay"], g["adapt"]) for g in groups] == [(2e-4, False), (0.0, False)]
