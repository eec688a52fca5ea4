"""What ``fit`` gives Lightning's Trainer."""

import shlex

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.profilers import SimpleProfiler

from callbacks.unprofiled import Unprofiled
from recipes.cli.main import run
from recipes.unet3d import BENCHMARK


@pytest.mark.parametrize(
    ("flags", "kind"), [("", Unprofiled), ("--trainer.profiler simple", SimpleProfiler)]
)
def test_a_run_is_profiled_only_when_asked(flags, kind, tmp_path, monkeypatch):
    profilers = []
    monkeypatch.setattr(Trainer, "fit", lambda self, *a, **k: profilers.append(self.profiler))
    run(BENCHMARK, ["fit", "--output_root", str(tmp_path), *shlex.split(flags)])
    assert [type(profiler) for profiler in profilers] == [kind]
