"""Loader processes that end or cannot hand over a batch give one line soon."""

import gc
import os
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.common import loaders
from datamodules.common.base import start_worker
from recipes.cli.doctor import _loaders
from recipes.cli.main import _one_line


class Batches(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.full((1000,), float(index))


class Ends(Batches):
    def __getitem__(self, index):
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


@pytest.fixture(autouse=True)
def no_loader_is_left():
    """Else torch raises the error of a killed loader process again when another one ends."""
    yield
    gc.collect()  # an error's traceback keeps its loader


def read(dataset):
    loader = DataLoader(dataset, batch_size=2, num_workers=1, worker_init_fn=start_worker)
    return [batch.mean().item() for batch in loader]


def test_a_long_temporary_directory_is_an_error_not_a_wait(tmp_path, monkeypatch):
    folder = tmp_path / ("d" * 90)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    started = time.monotonic()
    with pytest.raises(ValueError, match="cannot hand over its batches") as error:
        read(Batches())
    assert time.monotonic() - started < 30
    assert "AF_UNIX path too long" in _one_line(error.value)
    assert "set TMPDIR to a directory of at most" in _one_line(error.value)
    assert [f.kind for f in _loaders(SimpleNamespace(num_workers=1))] == ["lacks"]
    assert not list(_loaders(SimpleNamespace(num_workers=0)))


def test_a_loader_process_that_is_killed_is_one_line():
    with pytest.raises(RuntimeError) as error:
        read(Ends())
    line = _one_line(error.value)
    assert line.startswith("a loader process ended or could not write (DataLoader worker (pid")
    assert "--shm-size" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "message",
    [
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that "
        "dataloader's workers are out of shared memory. Please try to raise your limit.",
        "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback:\n  File x\n"
        "RuntimeError: unable to allocate shared memory(shm) for file </torch_7>: No space left on "
        "device (28)",
    ],
)
def test_full_shared_memory_says_what_to_do(message):
    assert "give it more of it (docker run --shm-size 8g)" in _one_line(RuntimeError(message))


def test_little_shared_memory_is_noted_beforehand(monkeypatch, tmp_path):
    monkeypatch.setattr(loaders.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**26))
    monkeypatch.setattr(loaders, "SHARED_MEMORY", tmp_path)
    assert "has 64 MiB free" in loaders.memory_note()
    monkeypatch.setattr(loaders, "SHARED_MEMORY", tmp_path / "none")
    assert loaders.memory_note() is None
