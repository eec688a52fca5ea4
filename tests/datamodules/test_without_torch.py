"""What a preparation worker imports loads no torch: it would take seconds in each of them.

KiTS19's workers load it to resample, once they have begun.
"""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "c4.prepare",
        "c4.raw",
        "coco.store",
        "common.preparation",
        "criteo.prepare",
        "imagenet.prepare",
        "kits19.build",
        "kits19.cases",
        "kits19.prepare",
        "librispeech.build",
        "selfplay.check",
        "selfplay.go.board",
        "wikipedia.build",
    ],
)
def test_a_worker_imports_no_torch(module):
    code = f"import sys, datamodules.{module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"
