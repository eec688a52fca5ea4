"""The order of documents and samples: Megatron's, by golden values and by its definition."""

import multiprocessing

import numpy as np
import pytest

from datamodules.c4.order import KEPT, make_order, map_order, num_samples


def walked(lengths, documents, seq_length):
    """Place and offset of each sample, walking token by token from one sample to the next."""
    place, offset, out = 0, 0, []
    left = int(sum(lengths))
    while left > seq_length:  # a sample takes one token more than it moves on
        while offset >= lengths[documents[place]]:
            offset -= lengths[documents[place]]
            place += 1
        out.append((place, offset))
        for _ in range(seq_length):
            offset += 1
            while place < len(documents) and offset >= lengths[documents[place]]:
                offset -= lengths[documents[place]]
                place += 1
        left -= seq_length
    return out


def test_golden_values():
    """Of megatron-core 0.11: RandomState(1234) and build_sample_idx, one epoch."""
    order = make_order(np.array([5, 3, 9, 1, 7, 4], np.int32), 4, 1234)
    assert order.documents.tolist() == [2, 1, 5, 0, 4, 3]
    places = list(zip(order.places.tolist(), order.offsets.tolist(), strict=True))
    assert places == [(0, 0), (0, 4), (0, 8), (2, 0), (3, 0), (3, 4), (4, 3)]
    assert order.samples.tolist() == [5, 0, 3, 4, 2, 6, 1]


@pytest.mark.parametrize("shortest", [0, 1])
def test_places_are_those_of_a_walk_through_the_stream(shortest):
    rng = np.random.default_rng(7)
    for seed in range(100):
        lengths = rng.integers(shortest, 30, int(rng.integers(1, 40))).astype(np.int32)
        seq_length = int(rng.integers(1, 40))
        order = make_order(lengths, seq_length, seed)
        state = np.random.RandomState(seed)
        documents = np.arange(lengths.size)
        state.shuffle(documents)
        assert order.documents.tolist() == documents.tolist()
        places = list(zip(order.places.tolist(), order.offsets.tolist(), strict=True))
        assert places == walked(lengths, documents, seq_length)
        samples = np.arange(num_samples(int(lengths.sum()), seq_length))
        state.shuffle(samples)
        assert order.samples.tolist() == samples.tolist()


def test_each_epoch_and_seed_has_its_own_order():
    lengths = np.full(50, 9, np.int32)
    orders = [make_order(lengths, 4, seed, epoch) for seed in (3, 4) for epoch in (0, 1, 2)]
    assert len({tuple(order.documents) for order in orders}) == 6
    again = make_order(lengths, 4, 3, 1)
    assert again.documents.tolist() == orders[1].documents.tolist()
    assert sorted(again.samples) == [*range(num_samples(450, 4))]


def test_an_order_is_made_once_and_the_newest_are_kept(tmp_path):
    made = []

    def make():
        made.append(1)
        return make_order(np.array([5, 3, 9], np.int32), 4, 0)

    for _ in range(2):
        order = map_order(tmp_path, "a", make)
    assert made == [1]
    assert isinstance(order.documents, np.memmap)
    assert not order.documents.flags.writeable
    for number in range(KEPT + 2):
        map_order(tmp_path, f"b{number}", make)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == KEPT


def test_an_order_that_was_cut_off_is_made_again(tmp_path):
    make = lambda: make_order(np.array([5, 3, 9], np.int32), 4, 0)  # noqa: E731
    first = map_order(tmp_path, "a", make).samples.tolist()
    for content in (b"", (tmp_path / "a/samples.npy").read_bytes()[:-2]):
        (tmp_path / "a/samples.npy").write_bytes(content)
        assert map_order(tmp_path, "a", make).samples.tolist() == first


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file/orders: the order of documents cannot be written"):
        map_order(tmp_path / "file" / "orders", "a", lambda: None)


def _map(arguments):
    folder, number = arguments
    return map_order(
        folder, "same", lambda: make_order(np.array([5, 3, 9], np.int32), 4, number)
    ).documents.tolist()


def test_processes_share_what_one_of_them_made(tmp_path):
    """Each would make another one: all get the first's."""
    with multiprocessing.get_context("fork").Pool(4) as pool:
        found = pool.map(_map, [(tmp_path, number) for number in range(8)])
    assert len({tuple(order) for order in found}) == 1
