"""What the loaders of all benchmarks share."""

import pytest

# A process of its own, whose loader processes get the signals from another and end when it does.
SCRIPT = """
import os, signal, subprocess, sys
from torch.utils.data import DataLoader
from datamodules.common.base import BenchmarkDataModule

class Numbers(BenchmarkDataModule):
    batch_size, num_workers = 1, 2

batches = iter(DataLoader(range(12), **Numbers().loader_options))
seen = [int(next(batches)) for _ in batches._workers]  # each has started
for worker in batches._workers:
    subprocess.run(["kill", "-s", sys.argv[1], str(worker.pid)], check=True)
seen += [int(batch) for batch in batches]
print(seen == list(range(12)))
"""


@pytest.mark.parametrize("name", ["INT", "TERM"])
def test_a_signal_to_the_whole_job_leaves_its_loader_processes_alive(name, run_python):
    done = run_python(["-c", SCRIPT, name], timeout=120)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
