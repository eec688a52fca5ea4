"""Two ranks that share the tables' rows compute what one rank computes."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from modules.dlrm.net import DLRM
from modules.dlrm.sparse_sgd import SparseSGD
from modules.recommendation.auc import ExactAUC, auc_from_keys, auc_over_ranks, pack
from modules.recommendation.fused_embedding import parameters_to_ignore

SIZES = (13, 2, 9)
STEPS, ROWS = 4, 12
LEVELS = [1 << 24, 1000, 3]  # few ties, many, almost nothing else


def build():
    torch.manual_seed(7)
    return DLRM(table_sizes=SIZES, embedding_width=4, bottom_widths=(6,), top_widths=(5,))


def batches():
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        ids = [torch.randint(0, size, (ROWS,), generator=generator) for size in SIZES]
        dense = torch.randn(ROWS, 13, generator=generator)
        yield dense, torch.stack(ids, 1).int(), (torch.arange(ROWS) % 3 == 0).float()


def train(net, model, rank, world):
    optimizer = SparseSGD(net.parameters(), 0.5)
    for dense, ids, labels in batches():
        mine = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(model(dense[mine], ids[mine]), labels[mine]).backward()
        optimizer.step()


def scored(levels):
    """Scores with as many different values as given, skewed like those of real clicks."""
    generator = torch.Generator().manual_seed(levels)
    labels = torch.rand(20_000, generator=generator) < 0.1
    scores = torch.rand(20_000, generator=generator) ** 8 * (0.7 + 0.3 * labels)
    return (scores * levels).round() / levels, labels


def worker(rank, world, folder):
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    net = build()
    first = net.tables.whole_weight()
    model: nn.Module = net
    net._ddp_params_and_buffers_to_ignore = parameters_to_ignore(net)
    model = DistributedDataParallel(net, broadcast_buffers=False)
    train(net, model, rank, world)
    dense, ids, labels = next(batches())
    with torch.no_grad():  # unequal shares, one of them empty
        mine = slice(0, ROWS if rank == 0 else 0)
        scores = net(dense[mine], ids[mine]).sigmoid()
    metric = ExactAUC()
    metric.update(scores, labels[mine])
    area = metric.compute()
    whole = net.tables.whole_weight()
    assert torch.equal(net.tables.share(whole), net.tables.weight) if rank == 0 else whole is None
    areas = []
    for levels in LEVELS:
        scores_, labels_ = scored(levels)
        mine = slice(0, 0) if rank == world - 1 else slice(rank, None, world - 1)
        areas.append(auc_over_ranks(pack(scores_[mine], labels_[mine])))
    result = {"areas": areas, "first": first, "tables": whole, "area": area, "scores": scores}
    result["mlps"] = {k: v for k, v in net.state_dict().items() if "tables" not in k}
    torch.save(result, f"{folder}/{rank}.pt")
    # A DDP module that outlives the group frees it while Python is locked, and can hang there.
    del model
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 3])
def results(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    # A server that has imported torch once forks the ranks: five imports fewer than spawning.
    mp.set_forkserver_preload(["torch", "modules.dlrm.net", "modules.recommendation.auc"])
    arguments = (request.param, str(folder))
    mp.start_processes(worker, arguments, nprocs=request.param, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


@pytest.mark.slow
def test_ranks_train_and_evaluate_like_one(results):
    alone = build()
    assert torch.equal(results[0]["first"], alone.tables.weight)
    train(alone, alone, 0, 1)
    torch.testing.assert_close(results[0]["tables"], alone.tables.weight.detach())
    for result in results:
        for name, value in result["mlps"].items():
            torch.testing.assert_close(value, alone.state_dict()[name])
    dense, ids, labels = next(batches())
    scores = alone(dense, ids).sigmoid().detach()
    torch.testing.assert_close(results[0]["scores"], scores)
    metric = ExactAUC()
    metric.update(scores, labels)
    assert all(float(result["area"]) == float(metric.compute()) for result in results)


@pytest.mark.slow
def test_ranks_that_exchange_ranges_of_scores_find_the_area_of_all(results):
    for number, levels in enumerate(LEVELS):
        scores, labels = scored(levels)
        alone = auc_from_keys(pack(scores, labels))
        assert alone == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        assert all(result["areas"][number] == alone for result in results)


def test_single_rank_keeps_all_rows():
    net = build()
    assert len(net.tables.weight) == sum(SIZES)
    assert torch.equal(net.tables.share(net.tables.whole_weight()), net.tables.weight)
    assert parameters_to_ignore(net) == ["tables.weight"]
