"""What a batch costs does not grow with the data: its allocations and its file system calls."""

import sys
import tracemalloc
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from datamodules.coco import COCO300DataModule, COCOMaskDataModule
from datamodules.criteo import CriteoDataModule
from datamodules.imagenet import ImageNetDataModule
from datamodules.kits19 import KiTS19DataModule
from datamodules.librispeech import LibriSpeechDataModule
from datamodules.wikipedia import WikipediaDataModule
from datamodules.wikipedia.demo import Language
from tests.datamodules.kits19 import tiny_kits19
from tests.datamodules.wikipedia.test_own_text import SETTINGS, articles
from tests.real_counts import worlds

BATCH_SIZE = 2
STEPS = 3
SLACK = 8_000  # bytes: lists and dictionaries that grow now and then
ORDER_BYTES = 40  # of an item, while an epoch is planned: a permutation and what it is sorted by


class Cost(NamedTuple):
    """What training batches cost once the first ones are read."""

    items: int
    step_bytes: int
    """Most that a step has in memory at a time, the batch included."""
    epoch_bytes: int
    """The same of an epoch's first batch, without its samples."""
    listings: list[tuple[str, str]]
    opened: int
    """Files in all steps."""


def images(root, times):
    worlds.write_imagenet(root, 1000 * times / worlds.IMAGENET["train"])
    return ImageNetDataModule(root=root, batch_size=BATCH_SIZE, image_size=32)


def ssd(root, times):
    worlds.write_coco(root, 0.01 * times)
    return COCO300DataModule(root=root, batch_size=BATCH_SIZE)


def maskrcnn(root, times):
    worlds.write_coco(root, 0.01 * times)
    return COCOMaskDataModule(root=root, batch_size=BATCH_SIZE)


def criteo(root, times):
    worlds.write_criteo(root, 1e-6 * times)
    return CriteoDataModule(root=root, batch_size=BATCH_SIZE)


def speech(root, times):
    worlds.write_librispeech(root, 0.003 * times)
    return LibriSpeechDataModule(root=root, batch_size=BATCH_SIZE)


def text(root, times):
    (root / "vocab.txt").write_text("\n".join(Language().vocabulary()) + "\n")
    for seed, name in enumerate(("b.txt", "eval.txt")):
        (root / name).write_text("\n\n".join(articles(seed, 100 * times)) + "\n")
    return WikipediaDataModule(root=root, **{**SETTINGS, "batch_size": BATCH_SIZE})


def volumes(root, times):  # never more than 210
    tiny_kits19.write_raw(root)
    return KiTS19DataModule(root=root, crop_size=tiny_kits19.MINIMUM, batch_size=1)


@contextmanager
def file_system_calls():
    """Yield the list of what is opened or listed within."""
    seen, watching = [], [True]

    def watch(event, args):
        if watching and event in ("open", "os.listdir", "os.scandir", "glob.glob"):
            seen.append((event, str(args[0])))

    sys.addaudithook(watch)
    try:
        yield seen
    finally:
        watching.clear()


def peak(work):
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def cost(datamodule):
    datamodule.prepare()
    datamodule.prepare_data()
    datamodule.setup("fit")
    loader = datamodule.train_dataloader()
    order, data = loader.batch_sampler or loader.sampler, loader.dataset

    def read(keys):
        if not isinstance(keys, list):  # a block of rows
            return data[keys]
        if hasattr(data, "__getitems__"):
            return loader.collate_fn(data.__getitems__(keys))
        return loader.collate_fn([data[key] for key in keys])

    batches = iter(order)
    for _ in range(STEPS):
        read(next(batches))
    order.set_epoch(1)
    with file_system_calls() as seen:
        batches = iter(order)
        first = peak(lambda: next(batches))
        steps = [peak(lambda: read(next(batches))) for _ in range(STEPS)]
    opened = [path for event, path in seen if event == "open"]
    listings = [call for call in seen if call[0] != "open"]
    return Cost(datamodule.samples_per_epoch, min(steps), first, listings, len(opened))


@pytest.mark.slow
@pytest.mark.parametrize("make", [images, ssd, maskrcnn, criteo, speech, text, volumes])
def test_a_batch_costs_the_same_in_data_of_any_size(make, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(worlds, "CLASSES", 10)
    costs = []
    for times in (1, 3):
        root = tmp_path / str(times)
        root.mkdir()
        costs.append(cost(make(root, times)))
    small, large = costs
    for each in costs:
        assert each.listings == []
        assert each.opened <= 8 * STEPS * BATCH_SIZE
    assert large.step_bytes <= small.step_bytes + SLACK
    more = large.items - small.items
    assert large.epoch_bytes <= small.epoch_bytes + ORDER_BYTES * more + SLACK
