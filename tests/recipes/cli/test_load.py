"""A finished run comes back in Python with its weights and data."""

import json
from pathlib import Path

import lightning as L
import pytest

from recipes import load_run
from recipes.cli.main import run
from recipes.unet3d import BENCHMARK
from scoring.runs.run import find_runs

DEMO = str(Path(__file__).parents[3] / "recipes/presets/unet3d/demo.yaml")


@pytest.mark.slow
def test_a_loaded_run_measures_what_its_record_says(tmp_path):
    args = ["fit", "--config", DEMO, "--output_root", str(tmp_path), "--seed_everything", "1"]
    args += ["--evaluation.first", "1", "--evaluation.every", "1", "--evaluation.limit", "1"]
    assert run(BENCHMARK, args) == 3
    (found,) = find_runs(tmp_path)
    module, data = load_run(found.folder)
    trainer = L.Trainer(logger=False, enable_progress_bar=False, accelerator="cpu")
    (measured,) = trainer.validate(module, data, verbose=False)
    recorded = found.record["quality"]["mean_dice"]
    assert measured["val/mean_dice"] == pytest.approx(recorded, abs=1e-6)
    ((minutes, quality),) = found.curve()
    assert quality == recorded
    assert minutes * 60 == pytest.approx(found.record["seconds"]["total"], abs=0.5)


def test_a_run_without_a_checkpoint_is_named(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"benchmark": "unet3d"}))
    with pytest.raises(FileNotFoundError, match=r"last\.ckpt is missing"):
        load_run(tmp_path)
