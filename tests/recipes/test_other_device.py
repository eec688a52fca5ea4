"""Every recipe trains and evaluates on a device that is no CPU; no GPU is needed for that."""

from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
STEMS = sorted(path.stem for path in (ROOT / "recipes").glob("[a-z]*.py"))
ONCE = ["--evaluation.first", "1", "--evaluation.every", "1", "--evaluation.limit", "1"]


@pytest.fixture
def train(run_python, tmp_path):
    def run(stem, *args):
        preset = f"recipes/presets/{stem}/demo.yaml"
        command = ["-m", "tests.pretend_device", stem, "--config", preset, *ONCE]
        command += ["--trainer.limit_train_batches", "3", "--trainer.limit_val_batches", "2"]
        command += ["--output_root", str(tmp_path)]
        return run_python([*command, *args])

    return run


class LeftBehind(torch.nn.Module):
    """A network with a tensor that does not move with it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv3d(1, 3, 1)
        self.scale = torch.ones(3, 1, 1, 1)  # no buffer: stays on the CPU

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) * self.scale


@pytest.mark.parametrize("stem", STEMS)
def test_three_steps_and_an_evaluation(stem, train):
    done = train(stem)
    assert done.returncode in (0, 3), done.stderr
    assert "target" in done.stdout
    assert "picture" not in done.stderr


def test_a_tensor_left_behind_is_found(train):
    net = f"{__name__}.LeftBehind"
    done = train("unet3d", "--model.net", net)
    assert done.returncode == 1
    assert "aten.mul.Tensor: tensors of two devices: CPU [(3, 1, 1, 1)]" in done.stderr
