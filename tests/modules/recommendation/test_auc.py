"""Exact AUC against scikit-learn."""

import math
import time

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from modules.dlrm import auc as auc_ops
from modules.recommendation.auc import ExactAUC, auc_from_keys, chance_margin, pack


def scores_and_labels(num, *, levels=None, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.random(num) < 0.2
    scores = 1 / (1 + np.exp(-rng.normal(labels * 1.0)))
    if levels:
        scores = np.round(scores * levels) / levels
    return torch.from_numpy(scores.astype(np.float32)), torch.from_numpy(labels)


@pytest.mark.parametrize("levels", [None, 1000, 10, 1])
@pytest.mark.parametrize("chunk", [7, 1000, 1 << 22])
def test_auc_equals_scikit_learn_with_ties_for_any_chunk_size(monkeypatch, levels, chunk):
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


def test_metric_concatenates_batches_even_empty_ones_and_is_float64():
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
