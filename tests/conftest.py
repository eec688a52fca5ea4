"""Settings for every test: one thread each (two busy processes on two cores starve each other)."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
if os.environ["OMP_NUM_THREADS"] == "1":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("WANDB_MODE", "disabled")

import pytest
import torch

from tests import shape_suffixes
from tests.warm import WarmProcess

torch.set_num_threads(1)
shape_suffixes.install()
# A shell that starts the tests in the background ignores Ctrl-C for them; some tests send one.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def shared_cache(tmp_path_factory):
    """One cache for the whole run, so that demo data is made once, and none in the home folder."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # the workers' common one
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINISHLINE_CACHE", str(folder / "shared-cache"))
        yield


@pytest.fixture(autouse=True)
def fixed_seed(monkeypatch):
    """Give every test's runs the same seed."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "1234")


@pytest.fixture
def hang_up_counts():
    """Let SIGHUP count, which ``nohup pytest`` has the tests ignore."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="session")
def run_python(shared_cache, tmp_path_factory):
    """``subprocess.run([sys.executable, *args])`` without the seconds that imports take."""
    warm = WarmProcess(tmp_path_factory.mktemp("warm"))
    yield warm.run
    warm.close()
