"""Mask R-CNN's batches: one orientation each, every image once a pass, exact resume."""

import numpy as np
import pytest

from datamodules.coco import aspect_sampler
from datamodules.coco.aspect_sampler import AspectSampler
from datamodules.common.sampling import SampleKey, epoch_order


def collect(sampler):
    return [[(k.index, k.epoch) for k in batch] for batch in sampler]


@pytest.mark.parametrize("world_size", [1, 3])
def test_aspect_batches_hold_one_orientation_and_every_image_once_a_pass(world_size):
    portrait = np.random.default_rng(0).random(50) < 0.3
    arguments = {"batch_size": 4, "batches_per_epoch": 5, "world_size": world_size, "seed": 3}
    seen = []
    for rank in range(world_size):
        sampler = AspectSampler(portrait, rank=rank, **arguments)
        for epoch in range(8):
            sampler.set_epoch(epoch)
            batches = collect(sampler)
            assert len(batches) == len(sampler) == 5
            for batch in batches:
                assert len({bool(portrait[index]) for index, _ in batch}) == 1
                assert 1 <= len(batch) <= 4
            seen += [key for batch in batches for key in batch]
    first = [index for index, number in seen if number == 0]
    assert set(first) == set(range(50))
    assert len(first) == -(-50 // world_size) * world_size


def test_aspect_order_resumes_in_the_middle():
    portrait = np.random.default_rng(0).random(50) < 0.3
    arguments = {"batch_size": 4, "batches_per_epoch": 9, "rank": 0, "world_size": 1, "seed": 3}
    whole = AspectSampler(portrait, **arguments)
    whole.set_epoch(4)
    expected = collect(whole)[5:]
    resumed = AspectSampler(portrait, **arguments, start_epoch=4, start_batch=5)
    assert collect(resumed) == expected
    resumed.set_epoch(5)
    whole.set_epoch(5)
    assert collect(resumed) == collect(whole)


def plain_batches(portrait, seed, number, *, batch_size, rank, world_size):
    """One pass filled sample by sample, as the reference's sampler fills its batches."""
    order = epoch_order(len(portrait), seed, number)
    share = -(-len(order) // world_size)
    groups, batches = {False: [], True: []}, []
    for position in range(rank * share, (rank + 1) * share):
        index = int(order[position % len(order)])
        group = groups[bool(portrait[index])]
        if not group or len(group[-1]) == batch_size:
            group.append([])
            batches.append(group[-1])
        group[-1].append((index, number, position // len(order)))
    return batches


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (2, 3)])
def test_batches_are_those_of_a_plain_loop_over_the_passes(rank, world_size):
    portrait = np.random.default_rng(1).random(47) < 0.4
    ranks = {"batch_size": 4, "rank": rank, "world_size": world_size}
    stream = [b for number in range(9) for b in plain_batches(portrait, 3, number, **ranks)]
    sampler = AspectSampler(portrait, **ranks, batches_per_epoch=7, seed=3)
    for epoch in range(4):
        sampler.set_epoch(epoch)
        found = [[tuple(key) for key in batch] for batch in sampler]
        assert found == stream[7 * epoch : 7 * epoch + 7]


@pytest.mark.parametrize(("world_size", "built"), [(1, 3), (4, 32)])
def test_a_resumed_run_counts_earlier_passes_and_builds_none(world_size, built, monkeypatch):
    """Building them took 11 s at epoch 30 of COCO; with one rank all passes have one length."""
    orders, keys = [], []

    def order(*args):
        orders.append(args)
        return epoch_order(*args)

    def key(*args):
        keys.append(args)
        return SampleKey(*args)

    monkeypatch.setattr(aspect_sampler, "epoch_order", order)
    monkeypatch.setattr(aspect_sampler, "SampleKey", key)
    portrait = np.random.default_rng(0).random(64) < 0.3
    sampler = AspectSampler(
        portrait, batch_size=4, batches_per_epoch=16 // world_size, rank=0, world_size=world_size,
        seed=3, start_epoch=30,
    )  # fmt: skip
    assert len(list(sampler)) == 16 // world_size
    assert len(orders) <= built
    assert len(keys) <= 64
