"""Lightning's loggers by name alone."""

from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from recipes.cli import loggers
from recipes.cli.parser import RecipeCLI
from recipes.cli.usage import UsageError
from recipes.dlrm import BENCHMARK


def settings(*flags: str) -> list:
    """The class and the directory of each logger."""
    cli = RecipeCLI(BENCHMARK, "fit", ["--output_root", "out", *flags], build=False)
    given = cli.config.trainer.logger
    every = given if isinstance(given, list) else [given]
    return [(each.class_path.rpartition(".")[2], each.init_args.save_dir) for each in every]


@pytest.fixture
def _all_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda name: ModuleSpec(name, None))
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.mark.usefixtures("_all_installed")
@pytest.mark.parametrize(
    ("name", "directory"),
    [
        ("CSVLogger", "out"),
        ("TensorBoardLogger", "out"),
        ("WandbLogger", "out"),
        ("MLFlowLogger", "out/mlruns"),
    ],
)
def test_a_name_alone_logs_below_the_output_root(name: str, directory: str) -> None:
    assert settings("--trainer.logger", name) == [(name, directory)]
    assert settings("--trainer.logger", name, "--trainer.logger.save_dir", "x") == [(name, "x")]


@pytest.mark.usefixtures("_all_installed")
def test_lists_of_names(tmp_path: Path) -> None:
    both = [("CSVLogger", "out"), ("WandbLogger", "out")]
    assert settings("--trainer.logger", "[CSVLogger, WandbLogger]") == both
    one_by_one = ["--trainer.logger+", "CSVLogger", "--trainer.logger+", "WandbLogger"]
    assert settings(*one_by_one) == both
    preset = tmp_path / "preset.yaml"
    preset.write_text("trainer: {logger: [CSVLogger, {class_path: WandbLogger}]}")
    assert settings("--config", str(preset)) == both


@pytest.mark.parametrize(
    ("name", "package"),
    [("CometLogger", "comet-ml"), ("MLFlowLogger", "mlflow"), ("TensorBoardLogger", "tensorboard")],
)
def test_a_missing_package_is_named(name: str, package: str, monkeypatch) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    needs = rf"--trainer.logger: {name} needs .*pip install {package}"
    with pytest.raises(UsageError, match=needs):
        settings("--trainer.logger", f"[CSVLogger, {name}]")
