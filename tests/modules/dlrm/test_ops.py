"""Parts of DLRM: AUC against scikit-learn, interaction, SGD and schedule against formulas."""

import math
import time

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from modules.common.schedules import warmup_hold_poly
from modules.dlrm import auc as auc_ops
from modules.dlrm.auc import ExactAUC, auc_from_keys, chance_margin, pack
from modules.dlrm.interaction import dot_interaction
from modules.dlrm.sparse_sgd import SparseSGD, stochastic_round


def scores_and_labels(num, *, levels=None, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.random(num) < 0.2
    scores = 1 / (1 + np.exp(-rng.normal(labels * 1.0)))
    if levels:
        scores = np.round(scores * levels) / levels
    return torch.from_numpy(scores.astype(np.float32)), torch.from_numpy(labels)


@pytest.mark.parametrize("levels", [None, 1000, 10, 1])
@pytest.mark.parametrize("chunk", [7, 1000, 1 << 22])
def test_auc_equals_scikit_learn_with_ties_whatever_the_chunk(monkeypatch, levels, chunk):
    monkeypatch.setattr(auc_ops, "CPU_CHUNK", chunk)
    for seed in range(3):
        scores, labels = scores_and_labels(2000, levels=levels, seed=seed)
        wanted = roc_auc_score(labels.numpy(), scores.numpy())
        assert auc_from_keys(pack(scores, labels)) == pytest.approx(wanted, abs=1e-12)


def test_auc_of_half_precision_scores_and_extreme_values():
    scores, labels = scores_and_labels(5000)
    half = scores.half().float()
    wanted = roc_auc_score(labels.numpy(), half.numpy())
    assert auc_from_keys(pack(half, labels)) == pytest.approx(wanted, abs=1e-12)
    edge = torch.tensor([0.0, -0.0, 1.0, 1e-45, 1.0, 0.5])
    label = torch.tensor([0, 1, 1, 0, 0, 1])
    wanted = roc_auc_score(label.numpy(), edge.numpy())
    assert auc_from_keys(pack(edge, label)) == pytest.approx(wanted, abs=1e-12)


def test_auc_is_exact_where_sums_pass_32_bits():
    labels = torch.arange(300_000) % 2
    constant = pack(torch.full((300_000,), 0.3), labels)
    assert auc_from_keys(constant) == 0.5
    assert auc_from_keys(pack(labels.float(), labels)) == 1.0
    assert auc_from_keys(pack(1 - labels.float(), labels)) == 0.0


def test_auc_without_both_labels_or_of_non_probabilities_is_nan():
    assert math.isnan(auc_from_keys(pack(torch.rand(5), torch.zeros(5))))
    metric = ExactAUC()
    metric.update(torch.tensor([0.1, float("nan"), 0.4]), torch.tensor([0, 1, 1]))
    assert math.isnan(metric.compute())
    metric.reset()
    metric.update(torch.tensor([0.1, 1.5]), torch.tensor([0, 1]))
    assert math.isnan(metric.compute())


def test_metric_joins_batches_also_empty_ones_and_is_float64():
    scores, labels = scores_and_labels(1000, levels=50)
    metric = ExactAUC()
    for part in torch.arange(1000).split(300):
        metric.update(scores[part], labels[part])
    metric.update(scores[:0], labels[:0])
    value = metric.compute()
    assert value.dtype == torch.float64
    assert float(value) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_chance_margin_is_the_spread_of_random_scores():
    rng = np.random.default_rng(0)
    labels = torch.arange(400) % 4 == 0
    areas = [
        auc_from_keys(pack(torch.from_numpy(rng.random(400, np.float32)), labels))
        for _ in range(400)
    ]
    assert np.std(areas) == pytest.approx(chance_margin(100, 300), rel=0.15)
    assert chance_margin(0, 5) == math.inf


@pytest.mark.speed
@pytest.mark.slow
@pytest.mark.parametrize(("rows", "tries"), [(1_000_000, 3), (8_000_000, 2), (32_000_000, 1)])
def test_auc_is_five_times_faster_than_scikit_learn(rows, tries):
    scores, labels = scores_and_labels(rows)

    def best(work):
        seconds = []
        for _ in range(tries):
            start = time.process_time()
            work()
            seconds.append(time.process_time() - start)
        return min(seconds)

    ours = best(lambda: auc_from_keys(pack(scores, labels)))
    theirs = best(lambda: roc_auc_score(labels.numpy(), scores.numpy()))
    assert theirs / ours >= 5, (ours, theirs)


def test_interaction_of_a_hand_made_input():
    features = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    assert dot_interaction(features).tolist() == [[11.0, 17.0, 39.0]]


def test_interaction_and_gradient_equal_pairwise_products():
    torch.manual_seed(0)
    features = torch.randn(5, 6, 4, dtype=torch.float64, requires_grad=True)
    pairs = [(features[:, i] * features[:, j]).sum(1) for i in range(6) for j in range(i)]
    torch.testing.assert_close(dot_interaction(features), torch.stack(pairs, 1))
    assert torch.autograd.gradcheck(dot_interaction, (features,))


def test_interaction_under_autocast_has_its_type_and_trains():
    features = torch.randn(3, 4, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        pairs = dot_interaction(features)
    assert pairs.dtype == torch.bfloat16
    pairs.float().sum().backward()
    assert features.grad.dtype == torch.float32
    wanted = features.detach().sum(1, keepdim=True) - features.detach()
    torch.testing.assert_close(features.grad, wanted, rtol=0.05, atol=0.1)


def gradient(rows, num_rows=6, width=3):
    values = torch.randn(len(rows), width)
    return torch.sparse_coo_tensor(
        torch.tensor([rows]), values, (num_rows, width), check_invariants=True
    )


def test_sgd_equals_torch_for_dense_and_sparse_with_repeated_rows():
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(6, 3)), torch.nn.Parameter(torch.randn(4))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    for step in range(3):
        grads = [gradient([1, 4, 1, 1, step]), torch.randn(4)]
        for params in (ours, theirs):
            for p, g in zip(params, grads, strict=True):
                p.grad = g.clone()
        SparseSGD(ours, lr=0.5).step()
        torch.optim.SGD(theirs, lr=0.5).step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_sgd_leaves_other_rows_untouched_to_the_bit():
    weight = torch.nn.Parameter(torch.randn(6, 3))
    before = weight.detach().clone()
    weight.grad = gradient([1, 4])
    SparseSGD([weight], lr=24.0).step()
    changed = (weight != before).any(1)
    assert changed.tolist() == [False, True, False, False, True, False]


def test_half_precision_table_keeps_small_steps_on_average():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.ones(6, 2000, dtype=torch.bfloat16))
    for _ in range(20):  # each step is a tenth of bfloat16's spacing below 1
        values = torch.full((2, 2000), 0.5, dtype=torch.bfloat16)
        weight.grad = torch.sparse_coo_tensor(
            torch.tensor([[3, 3]]), values, weight.shape, check_invariants=True
        )
        SparseSGD([weight], lr=0.1 * 2**-8).step()
    assert float(weight[3].detach().float().mean()) == pytest.approx(1 - 2 * 2**-8, abs=2e-4)
    assert (weight[0] == 1).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stochastic_rounding_goes_to_a_neighbour_and_keeps_the_mean(dtype):
    values = torch.full((20_000,), 1.0 + 0.3 * torch.finfo(dtype).eps)
    rounded = stochastic_round(values, dtype).float()
    assert set(rounded.unique().tolist()) == {1.0, 1.0 + torch.finfo(dtype).eps}
    assert float(rounded.double().mean() - 1) / torch.finfo(dtype).eps == pytest.approx(
        0.3, abs=0.02
    )
    exact = torch.tensor([-2.5, 0.0, 3.0])
    assert torch.equal(stochastic_round(exact, dtype).float(), exact)


def reference_rates(steps, *, base, warmup, start, decay):
    """The reference's scheduler as it keeps its state: a last rate that plateau and end reuse."""
    last, rates = base, []
    for count in range(1, steps + 1):
        if count < warmup:
            last = base * (1.0 - (warmup - count) / warmup)
        elif start <= count < start + decay:
            last = max(0.0000001, base * ((decay - (count - start)) / decay) ** 2)
        rates.append(last)
    return rates


@pytest.mark.parametrize(
    ("base", "warmup", "start", "decay"),
    [(24.0, 10, 30, 20), (1.0, 5, 5, 60), (18.0, 8, 20, 1), (2.0, 3, 40, 0), (26.0, 2, 2, 7)],
)
def test_schedule_equals_the_reference_with_its_state(base, warmup, start, decay):
    wanted = reference_rates(70, base=base, warmup=warmup, start=start, decay=decay)
    ours = [
        warmup_hold_poly(
            c, learning_rate=base, warmup_steps=warmup, decay_start_step=start, decay_steps=decay
        )
        for c in range(1, 71)
    ]
    np.testing.assert_allclose(ours, wanted, rtol=1e-12)


def test_schedule_at_the_published_settings():
    def rate(step):
        return warmup_hold_poly(
            step, learning_rate=24.0, warmup_steps=2750, decay_start_step=49315, decay_steps=27772
        )

    assert rate(1) == pytest.approx(24 / 2750)
    assert rate(2749) == rate(2750) == rate(49314) == pytest.approx(24 * 2749 / 2750)
    assert rate(49315) == 24.0
    assert rate(49315 + 13886) == pytest.approx(6.0)
    assert rate(10**6) == max(1e-7, 24 / 27772**2)
    assert warmup_hold_poly(1, learning_rate=1.0) == 1.0
