"""Adagrad over touched rows equals torch's, whose formula the rules name."""

import copy
import time

import numpy as np
import pytest
import torch
from torch import nn

from modules.recommendation import sparse_adagrad
from modules.recommendation.sparse_adagrad import SparseAdagrad

ROWS, WIDTH = 30, 4


def gradient(seed, rows=ROWS, count=50):
    """A sparse gradient in which rows occur several times."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(rows, (1, count), generator=generator)
    values = torch.randn(count, WIDTH, generator=generator)
    return torch.sparse_coo_tensor(index, values, (rows, WIDTH), check_invariants=True)


@pytest.mark.parametrize("in_chunks", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_steps_equal_those_of_torch(sparse, in_chunks, monkeypatch):
    if in_chunks:  # what an accelerator does
        monkeypatch.setattr(sparse_adagrad, "_step_on_cpu", sparse_adagrad._step_in_chunks)
        monkeypatch.setattr(sparse_adagrad, "CHUNK_ROWS", 7)
    torch.manual_seed(0)
    ours = nn.Parameter(torch.randn(ROWS, WIDTH))
    theirs = nn.Parameter(ours.detach().clone())
    a = SparseAdagrad([ours], 0.3)
    b = torch.optim.Adagrad([theirs], 0.3, eps=1e-8)
    for step in range(5):
        for weight, optimizer in ((ours, a), (theirs, b)):
            weight.grad = gradient(step) if sparse else gradient(step).to_dense()
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(a.state[ours]["sum"], b.state[theirs]["sum"])


def test_sparse_step_equals_a_dense_one_over_the_whole_table():
    start = torch.randn(ROWS, WIDTH)
    weights = [nn.Parameter(start.clone()) for _ in range(2)]
    for number, weight in enumerate(weights):
        optimizer = SparseAdagrad([weight], 0.3)
        for step in range(4):
            grad = gradient(step, count=9)
            weight.grad = grad.to_dense() if number else grad
            optimizer.step()
    torch.testing.assert_close(*weights)
    untouched = (gradient(0, count=9).to_dense() == 0).all(1)
    for step in range(1, 4):
        untouched &= (gradient(step, count=9).to_dense() == 0).all(1)
    assert untouched.any()
    assert torch.equal(weights[0][untouched], start[untouched])


def test_tiny_gradients_are_summed_first_and_epsilon_counts():
    """By hand: g / (|g| + 1e-8) at the first touch; 2e-9 is the sum of two rows' 1e-9."""
    weight = nn.Parameter(torch.zeros(3, 1))
    index = torch.tensor([[0, 1, 0]])
    weight.grad = torch.sparse_coo_tensor(
        index, torch.full((3, 1), 1e-9), (3, 1), check_invariants=True
    )
    SparseAdagrad([weight], 1.0).step()
    wanted = [-2e-9 / 1.2e-8, -1e-9 / 1.1e-8, 0.0]
    assert weight.flatten().tolist() == pytest.approx(wanted, rel=1e-4)
    assert wanted[:2] == pytest.approx([-0.167, -0.091], abs=5e-4)


def test_state_is_saved_and_loaded():
    weight = nn.Parameter(torch.ones(ROWS, WIDTH))
    optimizer = SparseAdagrad([weight], 0.1)
    weight.grad = gradient(0)
    optimizer.step()
    again = nn.Parameter(weight.detach().clone())
    other = SparseAdagrad([again], 0.1)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for w, o in ((weight, optimizer), (again, other)):
        w.grad = gradient(1)
        o.step()
    assert torch.equal(weight, again)


@pytest.mark.parametrize(("lr", "eps"), [(-1.0, 1e-8), (0.1, 0.0)])
def test_numbers_out_of_range_are_rejected(lr, eps):
    with pytest.raises(ValueError, match="lr must be at least 0 and eps above 0"):
        SparseAdagrad([nn.Parameter(torch.zeros(1))], lr, eps)


@pytest.mark.speed
def test_sparse_step_takes_no_longer_than_torchs():
    rows, count = 1_000_000, 60_000
    weights = [nn.Parameter(torch.zeros(rows, 64)) for _ in range(2)]
    a, b = SparseAdagrad([weights[0]], 0.1), torch.optim.Adagrad([weights[1]], 0.1, eps=1e-8)
    index = torch.randperm(rows)[:count].sort().values[None]
    values = torch.randn(count, 64)
    with torch.sparse.check_sparse_tensor_invariants(False):
        grad = torch.sparse_coo_tensor(index, values, (rows, 64), is_coalesced=True)
    seconds: list[list[float]] = [[], []]
    for _ in range(7):
        for times, weight, optimizer in zip(seconds, weights, (a, b), strict=True):
            weight.grad = grad
            start = time.process_time()
            optimizer.step()
            times.append(time.process_time() - start)
    ours, theirs = (float(np.median(times[2:])) for times in seconds)
    print(f"sparse Adagrad: {ours * 1e3:.1f} ms, torch {theirs * 1e3:.1f} ms")
    assert ours / theirs <= 1.0, (ours, theirs)
