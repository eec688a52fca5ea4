"""LARS and the reference's SGD against the formulas in float64, tensor by tensor."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from modules.resnet.lars import LARS, split_parameters

RATES = (0.0, 0.4, 1.3, 1.3, 0.7, 1e-4)


def steps(
    weights: list[np.ndarray], grads: list[list[np.ndarray]], *, decay: float, adapt: bool
) -> list[np.ndarray]:
    """The formulas of the reference, in float64 and one tensor at a time."""
    weights = [w.astype(np.float64) for w in weights]
    momenta = [np.zeros_like(w) for w in weights]
    for rate, now in zip(RATES, grads, strict=True):
        for i, grad in enumerate(now):
            g, w = grad.astype(np.float64), weights[i]
            ratio = 1.0
            if adapt and np.linalg.norm(w) > 0 and np.linalg.norm(g) > 0:
                norm_w, norm_g = np.linalg.norm(w), np.linalg.norm(g)
                ratio = 0.001 * norm_w / (norm_g + decay * norm_w + 1e-7)
            momenta[i] = 0.9 * momenta[i] - rate * ratio * (g + decay * w)
            weights[i] = w + momenta[i]
    return weights


@pytest.mark.parametrize("adapt", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_steps_equal_the_formula(adapt: bool, decay: float, layout: torch.memory_format) -> None:
    rng = np.random.default_rng(0)
    shapes = [(8, 4, 3, 3), (5, 7, 1, 1), (3, 2, 1, 1)]
    weights = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    weights[2][:] = 0  # a tensor without a norm takes the plain rate
    grads = [[rng.normal(size=s).astype(np.float32) for s in shapes] for _ in RATES]
    params = [nn.Parameter(torch.tensor(w).to(memory_format=layout)) for w in weights]
    optimizer = LARS(params, lr=1.0, momentum=0.9, weight_decay=decay, adapt=adapt)
    for rate, now in zip(RATES, grads, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        for param, grad in zip(params, now, strict=True):
            param.grad = torch.tensor(grad).to(memory_format=layout)
        optimizer.step()
    expected = steps(weights, grads, decay=decay, adapt=adapt)
    for param, wanted in zip(params, expected, strict=True):
        np.testing.assert_allclose(param.detach().numpy(), wanted, rtol=2e-5, atol=2e-6)


def test_at_a_constant_rate_it_is_the_one_of_timm() -> None:
    from timm.optim.lars import Lars

    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in ((8, 4, 3, 3), (5, 7), (6,))]
    theirs = [nn.Parameter(weight.detach().clone()) for weight in ours]
    settings = {"momentum": 0.9, "weight_decay": 0.01}
    optimizers = [
        LARS(ours, 0.7, eta=0.02, **settings),
        Lars(theirs, 0.7, trust_coeff=0.02, eps=1e-7, **settings),
    ]
    for _ in range(5):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_without_adaptation_and_at_a_constant_rate_it_is_torchs_sgd() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    mine = LARS(ours.parameters(), 0.1, momentum=0.9, weight_decay=0.02, adapt=False)
    other = torch.optim.SGD(theirs.parameters(), 0.1, momentum=0.9, weight_decay=0.02)
    for _ in range(5):
        x = torch.randn(4, 5)
        for net, optimizer in ((ours, mine), (theirs, other)):
            optimizer.zero_grad()
            net(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight)


def test_rate_changes_do_not_rescale_earlier_steps() -> None:
    param = nn.Parameter(torch.zeros(1))
    optimizer = LARS([param], 1.0, momentum=0.5, adapt=False)
    param.grad = torch.ones(1)
    optimizer.step()  # m = -1
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()  # m = -0.5, although the rate is 0 now
    assert param.item() == -1.5


def test_parameters_without_gradient_are_left_alone() -> None:
    used, unused = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = LARS([used, unused], 1.0, weight_decay=0.1)
    used.grad = torch.ones(2, 2)
    optimizer.step()
    assert torch.all(unused == 1)
    assert unused not in optimizer.state
    assert torch.all(used != 1)


def test_state_goes_through_a_checkpoint() -> None:
    torch.manual_seed(0)
    param = nn.Parameter(torch.randn(3, 3))
    param.grad = torch.randn(3, 3)
    optimizer = LARS([param], 1.0)
    optimizer.step()
    twin = nn.Parameter(param.detach().clone())
    twin.grad = param.grad.clone()
    other = LARS([twin], 1.0)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    optimizer.step()
    other.step()
    assert torch.equal(param, twin)


@pytest.mark.parametrize("bad", [{"lr": -1.0}, {"momentum": 1.0}, {"eta": 0.0}])
def test_settings_out_of_range_are_rejected(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="LARS needs"):
        LARS([nn.Parameter(torch.ones(1))], **{"lr": 1.0, **bad})


def test_parameters_are_split_by_layer_not_by_name() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    net[3].weight.requires_grad_(False)
    kernels, biases, norms = split_parameters(net)
    assert [id(p) for p in kernels] == [id(net[0].weight)]
    assert [id(p) for p in biases] == [id(net[0].bias), id(net[3].bias)]
    assert [id(p) for p in norms] == [id(net[1].weight), id(net[1].bias)]
