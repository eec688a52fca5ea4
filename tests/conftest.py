"""Settings for every test: one thread each (two busy processes on two cores starve each other)."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("WANDB_MODE", "disabled")

import pytest
import torch

from tests import shape_suffixes

torch.set_num_threads(1)
if os.environ.get("SHAPE_SUFFIXES"):  # not every name keeps its word yet
    shape_suffixes.install()
# A shell that starts the tests in the background ignores Ctrl-C for them; some tests send one.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_world(tmp_path_factory, monkeypatch):
    """Give every test its own caches and a fixed run seed, so that none touches the home folder."""
    base = tmp_path_factory.getbasetemp() / "shared-cache"
    monkeypatch.setenv("FINISHLINE_CACHE", str(base))
    monkeypatch.setenv("PL_GLOBAL_SEED", "1234")
