"""Every recipe on one CUDA device: the same losses as on a CPU, its preset's flags, its target.

pytest -n 0 -s -m 'gpu and not demo'     a few minutes
pytest -n 0 -m 'gpu and demo'            every demo to its target
"""

import importlib
import json
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml

from modules.bert.varlen_attention import plan_attention, varlen_attention
from recipes.cli.main import run
from recipes.cli.parser import RecipeCLI
from recipes.cli.presets import demo_preset
from recipes.speed import loops

ROOT = Path(__file__).parents[2]
STEMS = sorted(path.stem for path in (ROOT / "recipes").glob("[a-z]*.py"))
STEPS = 3
# Each device draws its own random numbers, so steps that are compared do without.
NO_DROPOUT = {
    "bert": ["dropout", "attention_dropout"],
    "rnnt": ["encoder_dropout", "prediction_dropout", "joint_dropout"],
}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def benchmark(stem):
    return importlib.import_module(f"recipes.{stem}").BENCHMARK


class Losses(L.Callback):
    """Notes the loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.values.append(float(outputs["loss"]))


def losses(stem: str, accelerator: str) -> list[float]:
    """Losses of the first steps from the same weights on the same batches."""
    sheet = benchmark(stem)
    args = ["--config", str(demo_preset(sheet)), "--seed_everything", "5"]
    args += ["--trainer.accelerator", accelerator]
    for name in NO_DROPOUT.get(stem, []):
        args += [f"--model.net.{name}", "0"]
    cli = RecipeCLI(sheet, "speed", args)
    cli.datamodule.prepare_data()
    batches, _ = loops.read_batches(cli.datamodule, STEPS)
    noted = Losses()
    torch.manual_seed(5)
    loops.lightning_round(sheet, cli, batches, STEPS, noted)
    return noted.values


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.float16, 5e-3), (torch.bfloat16, 4e-2)]
)
def test_attention_and_its_gradients_are_those_on_a_cpu(dtype, tolerance):
    torch.manual_seed(0)
    starts, found = torch.tensor([0, 5, 45, 46, 80], dtype=torch.int32), {}
    given = [torch.randn(80, 4, 64) for _ in range(4)]
    for device, kind in (("cpu", torch.float32), ("cuda", dtype)):
        *parts, weight = (x.to(device, kind) for x in given)
        leaves = [part.requires_grad_() for part in parts]
        result = varlen_attention(*leaves, plan_attention(starts.to(device), 512))
        grads = torch.autograd.grad((result * weight).sum(), leaves)
        found[device] = [x.detach().float().cpu() for x in (result, *grads)]
    torch.testing.assert_close(found["cuda"], found["cpu"], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("stem", STEMS)
def test_first_losses_are_those_on_a_cpu(stem, monkeypatch):
    order = torch.randperm  # of the sampled boxes in Mask R-CNN
    monkeypatch.setattr(torch, "randperm", lambda n, device=None: order(n).to(device))
    ours = losses(stem, "gpu")
    assert len(ours) == STEPS
    assert ours == pytest.approx(losses(stem, "cpu"), rel=2e-3)


@pytest.mark.parametrize("stem", STEMS)
def test_the_presets_precision_compilation_and_layout_train_the_demo(stem, tmp_path):
    preset = yaml.safe_load((ROOT / f"recipes/presets/{stem}/h100x1.yaml").read_text())
    kept = {
        "trainer": {"precision": preset["trainer"]["precision"], "accelerator": "gpu"},
        "warmup": preset.get("warmup", {}),
        "model": {k: v for k, v in preset.get("model", {}).items() if v is True},
        "data": {k: v for k, v in preset.get("data", {}).items() if v is True},
    }
    (tmp_path / "kept.yaml").write_text(yaml.safe_dump(kept))
    sheet = benchmark(stem)
    status = run(sheet, [
        "fit", "--config", str(demo_preset(sheet)), "--config", str(tmp_path / "kept.yaml"),
        "--output_root", str(tmp_path / "runs"), "--trainer.limit_train_batches", "8",
        "--evaluation.first", "1", "--evaluation.every", "1", "--evaluation.limit", "1",
    ])  # fmt: skip
    assert status in (0, 3)
    record = json.loads(next((tmp_path / "runs" / stem).glob("*/run.json")).read_text())
    assert record["epochs"] > 0


@pytest.mark.demo
@pytest.mark.parametrize("stem", STEMS)
def test_the_demo_reaches_its_target(stem, tmp_path):
    args = ["fit", "--trainer.accelerator", "gpu", "--output_root", str(tmp_path)]
    assert run(benchmark(stem), [*args, "--seed_everything", "0"]) == 0
