"""What a preparation worker imports loads no torch: it would take seconds in each of them."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "datamodules.coco.store",
        "datamodules.criteo.prepare",
        "datamodules.selfplay.check",
        "datamodules.selfplay.go.board",
        "datamodules.wikipedia.build",
    ],
)
def test_a_worker_imports_no_torch(module):
    code = f"import sys, {module}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
