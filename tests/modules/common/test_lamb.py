"""LAMB against the formula written out in float64, tensor by tensor."""

import math
import statistics
import time

import pytest
import torch

from modules.common import cache_sized, lamb
from modules.common.lamb import Lamb
from modules.common.norms import global_norm

SHAPES = ((4, 3), (5,), (2, 3, 2))


def formula(weights, grads_of_steps, *, lr, betas, eps, decays, clip):
    """Plain float64 LAMB: one tensor at a time, python loops, no shared code."""
    weights = [w.double().clone() for w in weights]
    first = [torch.zeros_like(w) for w in weights]
    second = [torch.zeros_like(w) for w in weights]
    for step, grads in enumerate(grads_of_steps, 1):
        norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in grads))
        scale = max(1.0, norm / clip) if clip else 1.0
        for i, grad in enumerate(grads):
            g = grad.double() / scale
            first[i] = betas[0] * first[i] + (1 - betas[0]) * g
            second[i] = betas[1] * second[i] + (1 - betas[1]) * g * g
            u = (first[i] / (1 - betas[0] ** step)) / (
                (second[i] / (1 - betas[1] ** step)).sqrt() + eps
            ) + decays[i] * weights[i]
            w_norm, u_norm = float(weights[i].norm()), float(u.norm())
            ratio = w_norm / u_norm if decays[i] and w_norm > 0 and u_norm > 0 else 1.0
            weights[i] = weights[i] - lr * ratio * u
    return weights


def run(weights, grads_of_steps, groups, kind=Lamb, **settings):
    optimizer = kind(groups(weights), **settings)
    for grads in grads_of_steps:
        for w, g in zip(weights, grads, strict=True):
            w.grad = g.clone()
        optimizer.step()
    return optimizer


def problem(dtype=torch.float64, steps=6, size=1.0):
    torch.manual_seed(0)
    weights = [torch.randn(s, dtype=dtype).requires_grad_() for s in SHAPES]
    grads = [[size * torch.randn(s, dtype=dtype) for s in SHAPES] for _ in range(steps)]
    return weights, grads


@pytest.mark.parametrize("clip", [1.0, 1e6, None])
@pytest.mark.parametrize("size", [1e-3, 3.0])
def test_lamb_float64_equals_formula(clip, size):
    weights, grads = problem(size=size)
    settings = {"lr": 0.02, "betas": (0.9, 0.99), "eps": 1e-9}
    wanted = formula([w.detach() for w in weights], grads, decays=[1e-3] * 3, clip=clip, **settings)
    run(weights, grads, list, weight_decay=1e-3, max_grad_norm=clip, **settings)
    for got, want in zip(weights, wanted, strict=True):
        torch.testing.assert_close(got.detach(), want, rtol=1e-12, atol=1e-14)


def test_lamb_group_without_decay_has_no_trust_ratio():
    weights, grads = problem()
    settings = {"lr": 0.02, "betas": (0.9, 0.99), "eps": 1e-6}
    wanted = formula(
        [w.detach() for w in weights], grads, decays=[0.01, 0.0, 0.01], clip=1.0, **settings
    )

    def groups(w):
        return [{"params": [w[0], w[2]]}, {"params": [w[1]], "weight_decay": 0.0}]

    run(weights, grads, groups, weight_decay=0.01, **settings)
    for got, want in zip(weights, wanted, strict=True):
        torch.testing.assert_close(got.detach(), want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("clip", [1.0, None])
def test_lamb_equals_the_one_of_timm(clip):
    from timm.optim.lamb import Lamb as TimmLamb

    ours, grads = problem(size=3.0)
    theirs = [weight.detach().clone().requires_grad_() for weight in ours]
    settings = {"lr": 0.02, "betas": (0.9, 0.99), "eps": 1e-6, "max_grad_norm": clip}

    def groups(w):
        return [
            {"params": [w[0], w[2]], "weight_decay": 0.01},
            {"params": [w[1]], "weight_decay": 0.0},
        ]

    run(ours, grads, groups, **settings)
    run(theirs, grads, groups, kind=TimmLamb, **settings)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_lamb_zero_weight_moves_with_ratio_one():
    weight = torch.zeros(4, requires_grad=True)
    optimizer = Lamb([weight], lr=0.5, eps=0.0, weight_decay=0.1, max_grad_norm=None)
    weight.grad = torch.tensor([1.0, -1.0, 2.0, -3.0])
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.5, 0.5, -0.5, 0.5]))


def test_lamb_zero_gradient_shrinks_weight_by_lr_only():
    # u = wd * w, so the ratio is 1 / wd and the step lr * w whatever the decay.
    weight = torch.full((3,), 2.0, requires_grad=True)
    optimizer = Lamb([weight], lr=0.25, weight_decay=1e-3)
    weight.grad = torch.zeros(3)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((3,), 1.5))


def test_lamb_without_corrections_takes_the_raw_moments():
    weight = torch.full((2,), 1.0, dtype=torch.float64, requires_grad=True)
    optimizer = Lamb(
        [weight],
        lr=0.1,
        betas=(0.5, 0.75),
        eps=0.0,
        weight_decay=0.0,
        max_grad_norm=None,
        bias_correction=False,
        grad_averaging=False,
    )
    weight.grad = torch.full((2,), 2.0, dtype=torch.float64)
    optimizer.step()  # m = 2, v = 0.25 * 4 = 1, u = 2
    torch.testing.assert_close(weight.detach(), torch.full((2,), 0.8, dtype=torch.float64))


def test_lamb_gradients_are_left_as_they_were():
    weights, grads = problem(size=10.0)
    run(weights, grads, list, lr=0.01)
    for weight, grad in zip(weights, grads[-1], strict=True):
        assert torch.equal(weight.grad, grad)


def test_lamb_resumed_from_state_dict_continues_bit_for_bit():
    whole, grads = problem(torch.float32)
    run(whole, grads, list, lr=0.01)
    cut, grads = problem(torch.float32)
    state = run(cut, grads[:3], list, lr=0.01).state_dict()
    again = Lamb(cut, lr=0.01)
    again.load_state_dict(state)
    for step_grads in grads[3:]:
        for w, g in zip(cut, step_grads, strict=True):
            w.grad = g.clone()
        again.step()
    for a, b in zip(whole, cut, strict=True):
        assert torch.equal(a, b)


def test_lamb_tensor_without_gradient_stays():
    used, unused = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    optimizer = Lamb([used, unused], lr=0.1)
    used.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(unused, torch.ones(2))
    assert not torch.equal(used, torch.ones(2))


@pytest.mark.parametrize("decay", [0.01, 0.0])
@pytest.mark.parametrize("clip", [1.0, 1e6, None])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_lamb_in_slices_has_the_numbers_of_whole_tensors(dtype, decay, clip, monkeypatch):
    shapes = [(300, 70), (33,), (5, 4), (), (64, 3, 2, 2)]
    results = []
    for fused in (True, False):
        monkeypatch.setattr(cache_sized, "NUMBERS_PER_THREAD", 256)
        monkeypatch.setattr(lamb, "plain_on_cpu", lambda *lists, fused=fused: fused)
        torch.manual_seed(0)
        weights = [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]
        grads = [[torch.randn(shape, dtype=dtype) for shape in shapes] for _ in range(4)]
        optimizer = run(weights, grads, list, lr=0.02, weight_decay=decay, max_grad_norm=clip)
        moments = [m for state in optimizer.state.values() for m in state.values()]
        results.append([*weights, *moments])
    assert len(results[0]) == 3 * len(shapes)
    tolerance = 1e-14 if dtype is torch.float64 else 1e-6
    for sliced, whole in zip(*results, strict=True):
        torch.testing.assert_close(sliced, whole, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("which", ["weight", "grad"])
def test_lamb_tensors_with_gaps_are_not_sliced(which):
    weights, grads = problem()
    wanted = formula(
        [w.detach() for w in weights], grads, decays=[0.01] * 3, clip=1.0, lr=0.02,
        betas=(0.9, 0.999), eps=1e-6,
    )  # fmt: skip
    if which == "weight":
        weights[0] = weights[0].detach().T.contiguous().T.requires_grad_()
    else:
        grads = [[step[0].T.contiguous().T, *step[1:]] for step in grads]
    optimizer = Lamb(weights, lr=0.02)
    for step in grads:
        for weight, grad in zip(weights, step, strict=True):
            weight.grad = grad
        optimizer.step()
    for got, want in zip(weights, wanted, strict=True):
        torch.testing.assert_close(got.detach(), want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("numbers", [1, 7, 64, 1 << 20])
def test_slices_cover_every_number_once(numbers, monkeypatch):
    monkeypatch.setattr(cache_sized, "NUMBERS_PER_THREAD", numbers)
    tensors = [torch.zeros(shape) for shape in ((9, 5), (3,), (), (2, 40), (0,))]
    others = [torch.zeros_like(tensor) for tensor in tensors]
    for part, same in cache_sized.cache_sized(tensors, others):
        assert sum(view.numel() for view in part) <= numbers * torch.get_num_threads()
        assert [view.shape for view in part] == [view.shape for view in same]
        for view in (*part, *same):
            view += 1
    assert all((tensor == 1).all() for tensor in (*tensors, *others))


def bert_tensors():
    """A large table, two layers of BERT-base's sizes and their biases: 20 million numbers."""
    shapes = [(8000, 768), *[(768, 768)] * 8, *[(3072, 768), (768, 3072)] * 2]
    shapes += [(768,)] * 20 + [(3072,)] * 2
    torch.manual_seed(0)
    weights = [torch.randn(shape).requires_grad_() for shape in shapes]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    return [
        {"params": [weight for weight in weights if weight.dim() > 1], "weight_decay": 0.01},
        {"params": [weight for weight in weights if weight.dim() == 1], "weight_decay": 0.0},
    ]


@pytest.mark.speed
@pytest.mark.slow
def test_a_step_is_no_slower_than_timms():
    """Processor time of neighbours in time; torch's default AdamW next to them does less work."""
    from timm.optim.lamb import Lamb as TimmLamb

    optimizers = [kind(bert_tensors(), lr=1e-3) for kind in (Lamb, TimmLamb, torch.optim.AdamW)]
    rounds = []
    for number in range(8):
        seconds = [0.0] * 3
        for which in (number % 3, (number + 1) % 3, (number + 2) % 3):
            start = time.process_time()
            optimizers[which].step()
            seconds[which] = time.process_time() - start
        rounds.append(seconds)
    over_timm = statistics.median(ours / theirs for ours, theirs, _ in rounds[1:])
    over_adamw = statistics.median(ours / adamw for ours, _, adamw in rounds[1:])
    print(f"\nLAMB step / timm's {over_timm:.2f}, / torch's AdamW {over_adamw:.2f}")
    assert over_timm <= 1.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", -1.0),
        ("betas", (0.9, 1.0)),
        ("eps", -1e-9),
        ("weight_decay", -1.0),
        ("max_grad_norm", 0.0),
    ],
)
def test_lamb_wrong_number_is_named(name, value):
    with pytest.raises(ValueError, match=name):
        Lamb([torch.ones(1)], **{name: value})


def test_global_norm_is_that_of_all_numbers():
    tensors = [torch.tensor([3.0]), torch.tensor([[0.0, 4.0]])]
    assert float(global_norm(tensors)) == pytest.approx(5.0)
