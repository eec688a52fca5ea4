"""Closed or open: every fixed trainer setting opens a run; an old class path is the same class."""

from importlib import import_module
from pathlib import Path

import pytest
import yaml

from recipes.cli.division import TRAINER_RULES, violations
from recipes.cli.parser import RecipeCLI, flat
from recipes.unet3d import BENCHMARK

OLD = Path(__file__).parent / "data" / "config_of_0.1.0.yaml"
# A value that is not the default, for each setting that the closed division fixes.
CHANGED = {
    "limit_train_batches": "3",
    "limit_val_batches": "3",
    "overfit_batches": "2",
    "fast_dev_run": "true",
    "gradient_clip_val": "1.0",
    "gradient_clip_algorithm": "value",
    "callbacks": '[{"class_path": "lightning.pytorch.callbacks.Timer"}]',
    "max_epochs": "7",
    "min_epochs": "2",
    "min_steps": "5",
    "max_time": "00:01:00:00",
    "max_steps": "9",
}


def found(*args, demo=False, benchmark=BENCHMARK):
    cli = RecipeCLI(benchmark, "fit", list(args), build=False)
    return violations(benchmark, flat(cli.config), flat(cli.parser.get_defaults()), demo=demo)


def test_the_defaults_are_closed(tmp_path):
    assert found("--data.root", str(tmp_path)) == []


def test_every_fixed_trainer_setting_is_tried():
    assert set(CHANGED) == set(TRAINER_RULES)


@pytest.mark.parametrize("name", sorted(TRAINER_RULES))
def test_a_changed_trainer_setting_opens_the_run(name, tmp_path):
    lines = found("--data.root", str(tmp_path), f"--trainer.{name}", CHANGED[name])
    assert [line for line in lines if line.startswith(f"trainer.{name} is ")], lines


@pytest.mark.parametrize(
    ("stem", "name", "value"),
    [
        ("dlrm_dcnv2", "kernels", "fbgemm"),
        ("gpt_oss_20b", "recompute_every", "1"),
        ("llama31_8b", "recompute_every", "1"),
        ("rnnt", "half_lstms", "true"),
    ],
)
def test_the_same_network_computed_in_another_way_stays_closed(stem, name, value, tmp_path):
    benchmark = import_module(f"recipes.{stem}").BENCHMARK
    settings = ("--data.root", str(tmp_path), f"--model.net.{name}", value)
    assert found(*settings, benchmark=benchmark) == []


def test_a_config_of_today_and_its_old_class_path_are_the_same_network(tmp_path):
    """The reference named by its old path, as in a ``config.yaml`` of version 0.1.0."""
    assert yaml.safe_load(OLD.read_text())["model"]["net"]["class_path"].startswith("modules.nets")
    closed = tmp_path / "old.yaml"
    closed.write_text("model:\n  net:\n    class_path: modules.nets.unet3d.UNet3D\n")
    assert found("--data.root", str(tmp_path), "--config", str(closed)) == []
    small = [line for line in found("--config", str(OLD)) if line.startswith("model.net")]
    assert small == ["model.net has filters=[8, 16, 32], but closed fixes the network"]
