"""Bags of ids: sums and gradients as torch's EmbeddingBag, also when ranks share the rows."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from modules.recommendation.pooled_embedding import PooledEmbedding, row_gradient
from modules.recommendation.sparse_adagrad import SparseAdagrad

SIZES, BAGS, WIDTH = (13, 2, 9), (4, 1, 3), 5


def drawn(num_rows=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    most = torch.tensor(SIZES).repeat_interleave(torch.tensor(BAGS))
    return (torch.rand(num_rows, sum(BAGS), generator=generator) * most).int()


def separate(tables):
    """The same rows as torch's own bags, one per table."""
    bags = nn.ModuleList(nn.EmbeddingBag(size, WIDTH, mode="sum") for size in SIZES)
    for bag, rows in zip(bags, tables.weight.detach().split(SIZES), strict=True):
        bag.weight.data.copy_(rows)
    return bags


def look_up(bags, ids):
    parts = ids.split(BAGS, 1)
    return torch.stack([bag(part) for bag, part in zip(bags, parts, strict=True)], 1)


def test_sums_and_gradients_equal_those_of_separate_bags():
    torch.manual_seed(0)
    tables = PooledEmbedding(SIZES, BAGS, WIDTH)
    bags, ids, toward = separate(tables), drawn(40), torch.randn(40, 3, WIDTH)
    assert any(len(set(row[:4])) < 4 for row in ids.tolist())  # an id twice in a bag counts twice
    out = tables(ids)
    torch.testing.assert_close(out, look_up(bags, ids))
    out.backward(toward)
    look_up(bags, ids).backward(toward)
    gradient = tables.weight.grad
    assert gradient.is_sparse
    rows = gradient._indices()[0]
    assert (rows[1:] > rows[:-1]).all()
    assert gradient._nnz() == len((ids + tables.position_offsets).unique())
    wanted = torch.cat([bag.weight.grad for bag in bags])
    torch.testing.assert_close(gradient.to_dense(), wanted)


def test_gradients_of_two_passes_add_up():
    tables, ids = PooledEmbedding(SIZES, BAGS, WIDTH), drawn(8)
    for part in (ids[:3], ids[3:]):
        tables(part).sum().backward()
    parts = tables.weight.grad.to_dense()
    tables.weight.grad = None
    tables(ids).sum().backward()
    torch.testing.assert_close(parts, tables.weight.grad.to_dense())


def test_gradient_of_rows_equals_autograd_in_double():
    torch.manual_seed(1)
    weight = torch.randn(6, 2, dtype=torch.double, requires_grad=True)
    rows, bags = torch.tensor([5, 0, 5, 5, 2]), torch.tensor([0, 0, 1, 1, 2])
    grad = torch.randn(3, 2, dtype=torch.double)
    sums = torch.zeros(3, 2, dtype=torch.double).index_add(0, bags, weight[rows])
    sums.backward(grad)
    got = row_gradient(grad, rows, bags, 6).to_dense()
    torch.testing.assert_close(got, weight.grad)


def test_an_empty_batch_has_no_bags():
    tables = PooledEmbedding(SIZES, BAGS, WIDTH)
    out = tables(drawn(0))
    assert out.shape == (0, 3, WIDTH)
    out.sum().backward()
    assert tables.weight.grad._nnz() == 0


@pytest.mark.parametrize("bags", [(1, 2), (1, 0, 2)])
def test_bags_that_do_not_fit_the_tables_are_rejected(bags):
    with pytest.raises(ValueError, match="for each of the 3 tables"):
        PooledEmbedding(SIZES, bags, WIDTH)


def train(tables, rank=0, world=1):
    optimizer = SparseAdagrad(tables.parameters(), 0.1)
    for step in range(3):
        ids = drawn(6 * world, step)[rank * 6 : rank * 6 + 6]
        optimizer.zero_grad()
        tables(ids).pow(2).mean().backward()
        optimizer.step()
    return optimizer


def worker(rank, world, folder):
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    torch.manual_seed(4)
    tables = PooledEmbedding(SIZES, BAGS, WIDTH)
    first = tables.whole_weight()
    optimizer = train(tables, rank, world)
    sums = tables.whole(optimizer.state[tables.weight]["sum"])
    with torch.no_grad():  # ranks with different numbers of rows, one with none
        scored = tables(drawn(5)[: 5 if rank == 0 else 0])
    result = {"first": first, "weight": tables.whole_weight(), "sums": sums, "scored": scored}
    torch.save(result, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_that_share_the_rows_train_like_one(world, tmp_path):
    mp.set_forkserver_preload(["torch"])
    mp.start_processes(worker, (world, str(tmp_path)), nprocs=world, start_method="forkserver")
    torch.manual_seed(4)
    alone = PooledEmbedding(SIZES, BAGS, WIDTH)
    result = torch.load(tmp_path / "0.pt")
    assert torch.equal(result["first"], alone.weight)
    optimizer = SparseAdagrad(alone.parameters(), 0.1)
    for step in range(3):
        optimizer.zero_grad()
        alone(drawn(6 * world, step)).pow(2).mean().backward()
        optimizer.step()
    torch.testing.assert_close(result["weight"], alone.weight.detach())
    torch.testing.assert_close(result["sums"], optimizer.state[alone.weight]["sum"])
    torch.testing.assert_close(result["scored"], alone(drawn(5)).detach())
    assert torch.load(tmp_path / "1.pt")["scored"].shape == (0, 3, WIDTH)
