"""Loader processes that are spawned, as by Python 3.14: none gets a copy of the arrays."""

import io
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from datamodules.coco import COCO300DataModule, COCOMaskDataModule
from datamodules.coco.demo import write_scenes
from datamodules.criteo import CriteoDataModule
from datamodules.criteo.demo import write_logs
from datamodules.imagenet import ImageNetDataModule
from datamodules.kits19 import KiTS19DataModule
from datamodules.librispeech import LibriSpeechDataModule
from datamodules.wikipedia import WikipediaDataModule
from datamodules.wikipedia.demo import Language
from tests.datamodules.imagenet import tiny_imagenet
from tests.datamodules.kits19 import tiny_kits19
from tests.datamodules.librispeech import tiny_librispeech
from tests.datamodules.wikipedia.test_own_text import SETTINGS, articles

BYTES_PER_ITEM = 12  # of an item's number and length


def images(root):
    tiny_imagenet.write_tiny(root)
    return ImageNetDataModule(root=root, batch_size=4, image_size=32)


def ssd(root):
    write_scenes(root, image_size=64, num_train=6, num_val=2)
    return COCO300DataModule(root=root, batch_size=2)


def maskrcnn(root):
    write_scenes(root, image_size=64, num_train=6, num_val=2)
    return COCOMaskDataModule(root=root, batch_size=2)


def criteo(root):
    write_logs(root, 2, 50)
    return CriteoDataModule(root=root, num_days=2, max_ind_range=100, batch_size=10)


def volumes(root):
    tiny_kits19.write_raw(root)
    return KiTS19DataModule(root=root, crop_size=tiny_kits19.MINIMUM, batch_size=1)


def text(root):
    (root / "vocab.txt").write_text("\n".join(Language().vocabulary()) + "\n")
    for seed, name in enumerate(("b.txt", "eval.txt")):
        (root / name).write_text("\n\n".join(articles(seed)) + "\n")
    return WikipediaDataModule(root=root, **SETTINGS)


def speech(root):
    tiny_librispeech.write_tiny(root)
    return LibriSpeechDataModule(root=root, vocab_size=tiny_librispeech.VOCABULARY, batch_size=2)


MAKERS = [images, ssd, maskrcnn, criteo, volumes, text, speech]


class Counting(pickle.Pickler):
    """Counts the bytes of arrays on their way to another process."""

    num_bytes = 0

    def reducer_override(self, value):
        if isinstance(value, np.ndarray | torch.Tensor):
            self.num_bytes += value.nbytes
        return NotImplemented


def loaders(make, root):
    datamodule = make(root)
    datamodule.prepare_data()
    datamodule.setup("fit")
    return datamodule.train_dataloader(), datamodule.val_dataloader()


def first_batch(loader):
    return next(iter(loader.batch_sampler or loader.sampler))


def fetch(loader, dataset):
    keys = first_batch(loader)
    if hasattr(dataset, "__getitems__"):
        return dataset.__getitems__(keys)
    return [dataset[key] for key in keys] if isinstance(keys, list) else dataset[keys]


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return np.array_equal(one, other)


@pytest.mark.parametrize("make", MAKERS)
def test_a_worker_gets_no_arrays_and_reads_the_same(make, tmp_path, capsys):
    for loader in loaders(make, tmp_path):
        used = fetch(loader, loader.dataset)  # as in a second epoch: files are open
        sent = io.BytesIO()
        pickler = Counting(sent)
        pickler.dump(loader.dataset)
        items = len(loader.dataset) if hasattr(loader.dataset, "__len__") else 0
        assert pickler.num_bytes <= BYTES_PER_ITEM * items, type(loader.dataset)
        assert same(fetch(loader, pickle.loads(sent.getvalue())), used)


@pytest.mark.slow
@pytest.mark.parametrize("make", MAKERS)
def test_spawned_workers_give_the_same_batches(make, tmp_path, capsys):
    for loader in loaders(make, tmp_path):
        order = {"batch_sampler": loader.batch_sampler} if loader.batch_sampler else {
            "batch_size": None, "sampler": loader.sampler}  # fmt: skip
        spawned = DataLoader(
            loader.dataset, collate_fn=loader.collate_fn, num_workers=1,
            multiprocessing_context="spawn", **order,
        )  # fmt: skip
        assert same(next(iter(spawned)), next(iter(loader)))
