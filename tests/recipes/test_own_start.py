"""Weights and a training step of one's own: --init_weights, --module, and the same in Python."""

import importlib
from pathlib import Path

import lightning as L
import pytest
import torch
from safetensors.torch import save_file

from recipes.cli.main import run
from recipes.cli.parser import RecipeCLI
from recipes.cli.presets import demo_preset
from tests.recipes import own_nets

ROOT = Path(__file__).parents[2]
STEMS = sorted(path.stem for path in (ROOT / "recipes").glob("[a-z]*.py"))
HERE = "tests.recipes.own_nets"


def sheet(stem):
    return importlib.import_module(f"recipes.{stem}").BENCHMARK


def demo(stem, *flags):
    cli = RecipeCLI(sheet(stem), "fit", ["--config", str(demo_preset(sheet(stem))), *flags])
    if stem.startswith("dlrm"):
        cli.model.configure_model()
    elif hasattr(cli.model, "build"):
        cli.model.build()
    return cli


@pytest.mark.parametrize("stem", STEMS)
def test_every_recipe_starts_from_the_weights_of_a_file(stem, tmp_path, capsys):
    saved = {f"net.{k}": v + 1 for k, v in demo(stem).model.net.state_dict().items()}
    path = tmp_path / "mine.ckpt"
    torch.save({"state_dict": saved}, path)
    model = demo(stem, "--init_weights", str(path)).model
    assert model.own_weights
    for name, value in model.net.state_dict().items():
        assert torch.equal(value, saved[f"net.{name}"])
    if stem == "rnnt":  # evaluation uses the average
        for one, other in zip(model.average.parameters(), model.net.parameters(), strict=True):
            assert torch.equal(one, other)
    said = capsys.readouterr().out
    assert f"init_weights: {len(saved)} of {len(saved)} tensors from {path}\n" in said


def test_partial_weights_are_loaded_and_the_rest_is_named(tmp_path, capsys):
    state = demo("resnet").model.net.state_dict()
    fc = next(name for name in state if name.endswith("fc.weight"))
    kept = {k: torch.full_like(v, 3) for k, v in state.items() if "num_batches" not in k}
    kept[fc] = torch.zeros(1000, 5)
    save_file({**kept, "head.extra": torch.zeros(2)}, tmp_path / "mine.safetensors")
    model = demo("resnet", "--init_weights", str(tmp_path / "mine.safetensors")).model
    assert float(model.net.state_dict()[next(iter(kept))].min()) == 3
    assert model.net.state_dict()[fc].shape == state[fc].shape
    said = capsys.readouterr().out
    assert f"other shape: {fc} (1000, 5) in the file, {tuple(state[fc].shape)} here" in said
    assert "not in the network: head.extra" in said


def test_weights_that_do_not_fit_are_refused(tmp_path, capsys):
    path = tmp_path / "other.pt"
    for content, words in (
        ({"layer.weight": torch.zeros(2, 2)}, "no tensor fits ResNet"),
        ({"epoch": 3}, "holds no tensor by name"),
        ([1], "holds a list, not a state dict"),
    ):
        torch.save(content, path)
        assert run(sheet("resnet"), ["fit", "--init_weights", str(path)]) == 2
        assert words in capsys.readouterr().err
    path.write_text("text")
    assert run(sheet("resnet"), ["fit", "--init_weights", str(path)]) == 2
    assert "truncated, or neither safetensors nor a state dict" in capsys.readouterr().err
    assert run(sheet("resnet"), ["fit", "--init_weights", "/nowhere"]) == 2
    assert "--init_weights: no file /nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("stem", STEMS)
def test_own_weights_and_an_own_module_belong_to_the_open_division(stem, tmp_path, capsys):
    closed = ["--data.root", str(tmp_path), "--submission.division", "closed"]
    for flags, words in (
        (["--init_weights", "mine.pt"], "closed fixes the starting weights"),
        (["--module", f"{HERE}.Halved_{stem}"], "closed trains as the reference does"),
        (["--model.net", f"{HERE}.Wide"], "closed fixes the network"),
    ):
        assert run(sheet(stem), ["fit", *closed, *flags]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("stem", STEMS)
def test_a_subclass_of_the_recipes_module_trains_with_its_own_arguments(stem):
    cli = demo(stem, "--module", f"{HERE}.Halved_{stem}", "--model.share", "0.25")
    assert type(cli.model) is getattr(own_nets, f"Halved_{stem}")
    assert cli.model.share == 0.25
    assert cli.net.is_reference
    assert cli.config.module == f"{HERE}.Halved_{stem}"


def test_a_module_is_named_in_a_configuration_too(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"module: {HERE}.Halved_resnet\nmodel:\n  share: 0.1\n")
    assert demo("resnet", "--config", str(path)).model.share == 0.1


@pytest.mark.parametrize("name", [f"{HERE}.Wide", "modules.unet3d.UNet3DModule"])
def test_a_module_that_is_no_subclass_is_refused(name, capsys):
    assert run(sheet("resnet"), ["fit", "--module", name]) == 2
    line = capsys.readouterr().err
    assert f"--module: {name} is not a subclass of modules.resnet.ResNetModule" in line


def test_both_flags_are_listed_in_help(capsys):
    for stem in STEMS:
        with pytest.raises(SystemExit):
            run(sheet(stem), ["fit", "--help"])
        out = capsys.readouterr().out
        assert "--init_weights" in out
        assert "--module" in out


def test_the_same_in_python_with_a_plain_trainer(tmp_path):
    from datamodules.imagenet import ImageNetDataModule
    from modules.resnet import ResNetModule
    from modules.resnet.net import ResNet

    class MyModule(ResNetModule):
        def training_step(self, batch, batch_idx):
            return 0.5 * super().training_step(batch, batch_idx)

    torch.save(ResNet(num_classes=10, width=4).state_dict(), tmp_path / "start.pt")
    module = MyModule(net=lambda: ResNet(num_classes=10, width=4), learning_rate=0.1)
    module.start_from(tmp_path / "start.pt")
    data = ImageNetDataModule(image_size=32, batch_size=8)
    settings = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    settings |= {"enable_model_summary": False}
    trainer = L.Trainer(max_steps=2, limit_val_batches=1, enable_progress_bar=False, **settings)
    trainer.fit(module, data)
    assert trainer.global_step == 2
    (values,) = trainer.validate(module, data, verbose=False)
    assert 0 <= values["val/accuracy"] <= 1
