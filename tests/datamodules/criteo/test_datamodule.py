"""Criteo batches: order, ranks, resume, what is opened when, and what is said about bad roots."""

import shutil
import sys
import time

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from datamodules.common.atomic import write_json
from datamodules.criteo import CriteoDataModule
from datamodules.criteo.batches import Block, BlockSampler, CriteoBlocks, evaluation_blocks
from datamodules.criteo.demo import NUM_DENSE, TABLE_SIZES, generate_day, write_logs
from datamodules.criteo.store import create_split, open_split


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("criteo")
    write_logs(root, 3, 200)
    module = CriteoDataModule(
        root=root, num_days=3, max_ind_range=5000, batch_size=64, evaluation_batch_size=30
    )
    module.prepare_data()
    return module


def sampler(rank=0, world=1, batch=8, block=32, **start):
    made = BlockSampler(250, block, rank, world, batch, 7, **start)
    made.set_epoch(made.epoch)
    return made


def rows(block):
    return [row % 250 for row in range(block.start, block.start + block.num_rows)]


def test_epoch_holds_every_row_once_and_fills_the_last_global_batch():
    seen = [row for block in sampler() for row in rows(block)]
    assert len(seen) == 256 == len(sampler()) * 8
    assert sorted(set(seen)) == list(range(250))
    repeated = [row for row in set(seen) if seen.count(row) > 1]
    assert repeated == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("world", "batch"), [(1, 32), (2, 16), (2, 8), (4, 8)])
def test_ranks_share_the_same_global_batches(world, batch):
    steps = 32 // (world * batch)
    per_rank = [list(sampler(rank, world, batch)) for rank in range(world)]
    whole = list(sampler(0, 1, 32))
    for step, block in enumerate(whole):
        parts = [per_rank[r][step * steps + m] for m in range(steps) for r in range(world)]
        assert [row for part in parts for row in rows(part)] == rows(block)


def test_order_depends_on_seed_and_epoch_and_resumes_inside_an_epoch():
    first, second = sampler(), sampler()
    second.set_epoch(1)
    assert list(first) != list(second)
    assert list(sampler(start_batch=5)) == list(sampler())[5:]
    resumed = sampler(start_batch=5, start_epoch=1)
    assert list(resumed) == list(second)[5:]
    resumed.set_epoch(2)
    assert len(list(resumed)) == len(resumed) == 32


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_evaluation_holds_every_row_once_with_equally_many_batches(world):
    shares = [evaluation_blocks(100, 30, rank, world) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    seen = [row for share in shares for b in share for row in range(b.start, b.start + b.num_rows)]
    assert sorted(seen) == list(range(100))


def test_batches_are_the_prepared_rows(data):
    files = open_split(data.prepared, "train")
    batch = next(iter(data.train_dataloader()))
    blocks = list(data.train_dataloader().sampler)
    start = blocks[0].start
    for name in ("label", "dense", "sparse"):
        wanted = files[name][np.arange(start, start + 64) % 400]
        np.testing.assert_array_equal(batch[name].numpy(), wanted)
    wrapped = CriteoBlocks(data.prepared, "train")[Block(390, 64)]
    np.testing.assert_array_equal(wrapped["sparse"][10:].numpy(), files["sparse"][:54])


def test_evaluation_covers_the_test_half_in_order(data):
    labels = torch.cat([batch["label"] for batch in data.val_dataloader()])
    np.testing.assert_array_equal(labels.numpy(), open_split(data.prepared, "test")["label"])


def test_worker_processes_give_the_same_batches(data):
    here = [batch["sparse"] for batch in data.train_dataloader()]
    data.num_workers = 1
    there = [batch["sparse"] for batch in data.train_dataloader()]
    data.num_workers = 0
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


def test_synthetic_batch_is_like_a_real_one(data):
    real, made = next(iter(data.train_dataloader())), data.synthetic_batch()
    for name, values in real.items():
        assert made[name].shape == values.shape
        assert made[name].dtype == values.dtype
    assert (made["sparse"].amax(0) < torch.tensor(data.table_sizes)).all()


def test_nothing_is_opened_before_the_first_batch(data):
    opened = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    data._manifest = None
    data.prepare_data()
    assert data.samples_per_epoch == 448
    assert data.mllog_facts() == {"train_samples": 400, "eval_samples": 100}
    loader = data.train_dataloader()
    data.synthetic_batch()
    assert not [path for path in opened if path.endswith(".npy") or "day_" in path]
    next(iter(loader))
    assert [path for path in opened if path.endswith("train_dense.npy")]


def test_problems_name_what_is_missing_and_where_to_get_it(tmp_path, data):
    assert data.problems() == []
    (line,) = CriteoDataModule(root=tmp_path).problems()
    assert "Criteo AI Lab" in line
    write_logs(tmp_path, 2, 5)
    (tmp_path / "day_1").write_bytes(b"")
    lines = CriteoDataModule(root=tmp_path, num_days=3).problems()
    assert "day_2" in lines[0]
    assert "day_1 is empty" in lines[1]
    assert CriteoDataModule().problems() == []


def test_days_that_were_parsed_before_a_kill_may_be_gone(tmp_path, monkeypatch):
    write_logs(tmp_path, 3, 5)
    data = CriteoDataModule(root=tmp_path, num_days=3)
    with monkeypatch.context() as patch:
        patch.setattr("datamodules.criteo.prepare.number_column", lambda work, column: 1 / 0)
        with pytest.raises(ValueError, match="division by zero"):
            data.prepare_data()
    (tmp_path / "day_1").unlink()
    assert data.problems() == []


def test_prepare_says_that_a_day_has_changed_since(tmp_path, capsys):
    write_logs(tmp_path, 3, 5)
    CriteoDataModule(root=tmp_path, num_days=3).prepare()
    assert "changed" not in capsys.readouterr().out
    write_logs(tmp_path, 3, 6)
    CriteoDataModule(root=tmp_path, num_days=3).prepare()
    assert "day_1 changed since it was prepared" in capsys.readouterr().out


def test_prepare_says_when_the_disk_is_too_small(tmp_path, monkeypatch):
    write_logs(tmp_path, 3, 5)
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    data = CriteoDataModule(root=tmp_path, num_days=3)
    assert "free some space" in data.problems()[0]
    with pytest.raises(ValueError, match="free some space"):
        data.prepare_data()


def test_bad_arguments_are_all_named():
    with pytest.raises(ValueError, match="batch_size must be") as error:
        CriteoDataModule(batch_size=0, num_days=1, max_ind_range=0)
    assert len(str(error.value).splitlines()) == 3


def auc(scores, labels):
    ranks, positives = rankdata(scores), labels.sum()
    area = ranks[labels].sum() - positives * (positives + 1) / 2
    return area / (positives * (len(labels) - positives))


def test_demo_can_reach_the_target_but_not_perfection():
    day = generate_day(23)
    assert day.dense.shape[1] == NUM_DENSE
    assert 0.83 < auc(day.log_odds, day.label) < 0.9
    # No single field gives the answer away.
    single = [abs(auc(column, day.label) - 0.5) for column in day.dense.T]
    assert max(single) < 0.15
    assert len(TABLE_SIZES) == 26


@pytest.mark.speed
@pytest.mark.slow
def test_loader_gives_rows_many_times_faster_than_they_are_trained(tmp_path):
    """At the closed batch of one of eight devices and 460,000 mapped rows, on one core."""
    from modules.dlrm.net import DLRM

    rows, batch = {"train": 460_800, "test": 10, "validation": 10}, 6912
    for split, count in rows.items():
        create_split(tmp_path, split, count)
    files = open_split(tmp_path, "train", writable=True)
    sizes = tuple(size + 1 for size in TABLE_SIZES)
    files["sparse"][:] = np.random.default_rng(0).integers(sizes, size=(rows["train"], 26))
    settings = {"num_days": 3, "max_ind_range": 5000}
    header = {"dataset": "criteo", "format": 2, "settings": settings}
    write_json(tmp_path / "manifest.json", {**header, "rows": rows, "table_sizes": sizes})
    data = CriteoDataModule(
        root=tmp_path, prepared_dir=tmp_path, num_days=3, max_ind_range=5000, batch_size=batch
    )
    start, loaded = time.process_time(), 0
    for values in data.train_dataloader():
        loaded += len(values["label"])
    loading = (time.process_time() - start) / loaded
    # The demo's layers: the cheapest step there is; the closed network's takes ten times as long.
    net = DLRM(table_sizes=sizes, embedding_width=16, bottom_widths=(64, 32), top_widths=(128, 64))
    seconds = []
    for _ in range(4):
        start = time.process_time()
        net.zero_grad()
        net(values["dense"].float().log1p(), values["sparse"]).sum().backward()
        seconds.append(time.process_time() - start)
    training = float(np.median(seconds[1:])) / batch
    print(f"loading {1 / loading:,.0f} rows/s, training {1 / training:,.0f} rows/s")
    assert loading <= 0.1 * training, (loading, training)
