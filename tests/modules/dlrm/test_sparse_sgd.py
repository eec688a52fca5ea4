"""Row-sparse SGD against torch's, and stochastic rounding."""

import pytest
import torch

from modules.dlrm.sparse_sgd import SparseSGD, stochastic_round


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
