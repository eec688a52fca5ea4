"""Data that is not the benchmark's: refused by closed runs, trained on by open ones."""

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch import Trainer

from datamodules.kits19 import KiTS19DataModule
from recipes.cli.data_check import DataCheck
from recipes.cli.main import run
from recipes.unet3d import BENCHMARK

LINE = "10 classes instead of 3"
OPEN = "--submission.division open"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(KiTS19DataModule, "differences", lambda self: [LINE])
    monkeypatch.setattr(KiTS19DataModule, "problems", lambda self: [])
    monkeypatch.setattr(KiTS19DataModule, "prepare", lambda self: None)
    monkeypatch.setattr(KiTS19DataModule, "prepare_data", lambda self: None)
    return f"--data.root {shlex.quote(str(tmp_path))}"


class StartedError(Exception):
    """Stands for training."""


def fit(flags: str, monkeypatch: pytest.MonkeyPatch) -> int:
    def start(self: Trainer, *args: object, **kwargs: object) -> None:
        raise StartedError

    monkeypatch.setattr(Trainer, "fit", start)
    return run(BENCHMARK, ["fit", *shlex.split(flags)])


@pytest.mark.parametrize("wanted", ["", "--submission.division closed"])
def test_a_closed_run_is_refused_with_the_flag_that_helps(own, wanted, monkeypatch, capsys):
    assert fit(f"{own} {wanted}", monkeypatch) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert LINE in error
    assert error.endswith(f"{OPEN} trains on it")


@pytest.mark.parametrize("flag", [OPEN, "--data.oversampling 0.5", "--trainer.max_epochs 3"])
def test_an_open_run_starts(own, flag, monkeypatch, capsys):
    assert fit(f"{own} {flag}", monkeypatch) == 1
    assert "Started" in capsys.readouterr().err


def test_what_is_known_only_after_prepare_is_refused_too(own, monkeypatch, capsys, tmp_path):
    known: list[str] = []
    monkeypatch.setattr(KiTS19DataModule, "differences", lambda self: known)
    monkeypatch.setattr(KiTS19DataModule, "prepare_data", lambda self: known.append(LINE))
    assert run(BENCHMARK, ["fit", *shlex.split(own), "--trainer.accelerator", "cpu"]) == 2
    assert LINE in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_doctor_and_prepare_say_it(own, capsys):
    assert run(BENCHMARK, ["doctor", *shlex.split(own)]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert f"not the benchmark's data: {LINE}: fit stops, but trains on it with {OPEN}" in out
    assert run(BENCHMARK, ["doctor", *shlex.split(own), *OPEN.split()]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert LINE in out
    following = shlex.split(out.partition("Ready: python recipes/unet3d.py ")[2])
    assert following[0] == "prepare"
    assert run(BENCHMARK, following) == 0
    assert LINE in capsys.readouterr().out


def test_the_record_of_an_open_run_names_own_data(tmp_path):
    data = SimpleNamespace(root=tmp_path, differences=lambda: [LINE])
    check = DataCheck(BENCHMARK, "open")
    assert check.dataset == "KiTS19"
    check.setup(SimpleNamespace(datamodule=data), None, "fit")
    assert check.dataset == f"own data in {tmp_path.resolve()}"
