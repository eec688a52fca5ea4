"""A resumed run goes on as it began, unless it is told to."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from recipes.cli.parser import RecipeCLI
from recipes.cli.resume_check import _differences, check_settings, settings
from recipes.cli.saved_config import config_text
from recipes.cli.usage import UsageError
from recipes.unet3d import BENCHMARK

DEMO = ["--config", str(Path(__file__).parents[3] / "recipes/presets/unet3d/demo.yaml")]
WHOLE = {"loops": {"fit_loop": {}}, "optimizer_states": [{}]}


def parsed(*words):
    return RecipeCLI(BENCHMARK, "fit", [*DEMO, "--seed_everything", "5", *words], build=False)


@pytest.fixture
def resumed(tmp_path):
    """Parse a command line that resumes a run with the demo's settings."""
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    torch.save({**WHOLE, "finishline_settings": json.dumps(settings(parsed()))}, path)
    return lambda *words: parsed("--ckpt_path", str(path), *words)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--seed_everything", "6"], "seed_everything 6 instead of 5"),
        (["--model.learning_rate", "0.3"], "model.learning_rate 0.3 instead of 0.2"),
        (["--model.net.filters", "[8,16]"], "model.net.filters [8, 16] instead of [8, 16, 32]"),
        (
            ["--model.net", "torch.nn.Identity"],
            "model.net torch.nn.Identity instead of modules.unet3d.net.UNet3D",
        ),
        (["--data.oversampling", "0.5"], "data.oversampling 0.5 instead of "),
    ],
)
def test_other_settings_are_refused_and_can_be_forced(words, line, resumed, capsys):
    with pytest.raises(UsageError, match="--force_resume true trains on") as error:
        check_settings(resumed(*words))
    assert line in str(error.value)
    check_settings(resumed(*words, "--force_resume", "true"))
    assert f"Note: --ckpt_path: {resumed().config.ckpt_path} was trained with other settings: " in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--evaluation.limit", "99", "--data.num_workers", "2"],
        ["--data.root", "/moved", "--data.prepared_dir", "/elsewhere"],
        ["--trainer.devices", "2", "--data.batch_size", "1"],  # compared as the global batch
    ],
)
def test_where_and_how_long_it_trains_may_change(words, resumed, capsys):
    check_settings(resumed(*words))
    assert capsys.readouterr().out == ""


def test_a_checkpoint_of_0_2_is_compared_with_its_configuration(tmp_path):
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    torch.save({**WHOLE, "state_dict": {}}, path)
    check_settings(parsed("--ckpt_path", str(path)))  # nothing is known of it
    content = yaml.safe_load(config_text(parsed()))
    del content["model"]["momentum"]  # a flag that this version has added
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(content))
    check_settings(parsed("--ckpt_path", str(path), "--model.momentum", "0.1"))
    with pytest.raises(UsageError, match="model.learning_rate 3.0 instead of 0.2"):
        check_settings(parsed("--ckpt_path", str(path), "--model.learning_rate", "3"))


def test_a_network_that_has_moved_is_the_same():
    before = {"model.net": {"class_path": "modules.nets.unet3d.UNet3D", "init_args": {"a": 1}}}
    now = {"model.net": {"class_path": "modules.unet3d.net.UNet3D", "init_args": {"a": 1, "b": 2}}}
    assert _differences(before, now) == []


@pytest.mark.parametrize("lacking", WHOLE)
def test_a_checkpoint_that_would_start_the_schedule_anew_is_refused(lacking, tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({**WHOLE, lacking: []}, path)
    with pytest.raises(ValueError, match=f"last.ckpt lacks {lacking}, so no run can go on from it"):
        check_settings(parsed("--ckpt_path", str(path)))
