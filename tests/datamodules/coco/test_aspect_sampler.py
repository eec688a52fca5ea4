"""Mask R-CNN's batches: one orientation each, every image once a pass, exact resume."""

import numpy as np
import pytest

from datamodules.coco.aspect_sampler import AspectSampler


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
