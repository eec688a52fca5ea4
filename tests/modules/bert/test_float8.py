"""8-bit floats: one line where they cannot work, and close to float32 where they are emulated."""

import sys
from pathlib import Path

import pytest
import torch

from modules.bert import float8
from modules.bert.float8 import float8_bert
from modules.bert.net import Bert
from recipes.bert import BENCHMARK
from recipes.cli.main import run

SMALL = {"vocab_size": 96, "hidden_size": 64, "num_layers": 2, "num_heads": 4,
         "intermediate_size": 128, "max_positions": 32, "dropout": 0.0,
         "attention_dropout": 0.0}  # fmt: skip
PRESET = Path(__file__).parents[3] / "recipes" / "presets" / "bert" / "fp8.yaml"


def inputs(tokens=40):
    ids = torch.arange(tokens) * 7 % 96
    starts = torch.tensor([0, 17, tokens], dtype=torch.int32)
    positions = torch.cat([torch.arange(17), torch.arange(tokens - 17)])
    return ids, torch.zeros_like(ids), positions, starts, torch.arange(0, tokens, 5)


def test_without_torchao_the_preset_ends_in_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    args = ["fit", "--config", str(PRESET), "--trainer.accelerator", "cpu"]
    assert run(BENCHMARK, [*args, "--output_root", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "8-bit floats need torchao" in line
    assert "pip install 'finishline[gpu]'" in line
    assert not list(tmp_path.iterdir())


def test_without_such_a_gpu_there_is_one_line(monkeypatch):
    monkeypatch.setattr(float8, "_torchao", lambda: (None, None))
    monkeypatch.setattr(float8, "can_multiply", lambda: False)
    with pytest.raises(ValueError, match="compute capability 8.9 or more") as caught:
        float8_bert(**SMALL)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["hidden_size", "intermediate_size"])
def test_sizes_that_no_kernel_takes_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be a multiple of 16 in float8, got 72"):
        float8_bert(**{**SMALL, name: 72})


@pytest.mark.parametrize("scaling", ["tensorwise", "rowwise"])
def test_emulated_it_is_close_to_float32_and_every_weight_learns(scaling):
    pytest.importorskip("torchao")
    torch.manual_seed(0)
    plain = Bert(**SMALL)
    net = float8_bert(**SMALL, scaling=scaling, emulate=True)
    net.load_state_dict(plain.state_dict())
    found, expected = net(*inputs())[0], plain(*inputs())[0]
    error = float((found - expected).detach().norm() / expected.detach().norm())
    assert 1e-4 < error < 0.1, "rounded to 3 bits of mantissa, no more and no less"
    found.square().mean().backward()
    expected.square().mean().backward()
    for (name, mine), theirs in zip(net.named_parameters(), plain.parameters(), strict=True):
        if theirs.grad is not None and name.startswith("layers") and name.endswith("up.weight"):
            assert float((mine.grad - theirs.grad).norm() / theirs.grad.norm()) < 0.3
    kinds = {name: type(module).__name__ for name, module in net.named_modules()}
    assert kinds["layers.0.query"] == kinds["layers.1.down"] == "Float8Linear"
    assert kinds["transform"] == kinds["next_sentence"] == "Linear"
