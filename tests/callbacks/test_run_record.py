"""The record and the loggers' hyperparameters name the peak learning rate, or why it is unknown."""

import json

import torch

from callbacks.metrics_csv import MetricsCSV
from callbacks.quality_target import QualityTarget
from callbacks.run_record import RunRecord
from callbacks.warm_up import WarmUp
from tests.toy import FakeTime, ToyData, ToyModule, fake_state, toy_trainer

FACTS = {"benchmark": "toy", "division": "open", "demo": True, "net": "tests.toy.Net"}


class Scheduled(ToyModule):
    peak_learning_rate = 0.8


class Logger(MetricsCSV):
    def log_hyperparams(self, params, *args, **kwargs):
        self.hyperparameters = params
        super().log_hyperparams(params)


def recorded(module, folder):
    state = fake_state(FakeTime())
    target = QualityTarget({"score": 0.5}, "max", state=state)
    config = {"model": {"learning_rate": 0.4}}
    logger = Logger(state, lambda: folder)
    record = RunRecord(
        target=target,
        warm_up=WarmUp(),
        folder=lambda: folder,
        facts=lambda: FACTS,
        config=config,
    )
    toy_trainer([target, record], logger=logger).fit(module, ToyData())
    assert config == {"model": {"learning_rate": 0.4}}, "what is saved stays as it was"
    return json.loads((folder / "run.json").read_text()), logger.hyperparameters


def test_the_peak_rate_is_in_the_record_and_in_the_loggers_hyperparameters(tmp_path):
    record, hyperparameters = recorded(Scheduled([0.9]), tmp_path)
    assert record["peak_learning_rate"] == 0.8
    assert "not_known" not in record
    assert hyperparameters == {"model": {"learning_rate": 0.4}, "peak_learning_rate": 0.8}


def test_an_unknown_peak_rate_is_null_with_a_reason(tmp_path):
    record, hyperparameters = recorded(ToyModule([0.9]), tmp_path)
    assert record["peak_learning_rate"] is None
    reason = record["not_known"]["peak_learning_rate"]
    assert reason == "ToyModule does not define peak_learning_rate"
    assert hyperparameters["peak_learning_rate"] is None


class Drawing(ToyModule):
    """Leaves its modes and the random state changed, and its picture fails."""

    def write_artifacts(self, folder):
        torch.rand(3)
        self.net.eval()
        (folder / "first.txt").write_text("written")
        raise RuntimeError("no picture\nand more lines")


def test_a_picture_that_fails_leaves_the_run_and_its_random_state_alone(tmp_path, capsys):
    (tmp_path / "plain").mkdir()
    (tmp_path / "drawing").mkdir()
    states = []
    for module, name in ((ToyModule([0.9]), "plain"), (Drawing([0.9]), "drawing")):
        torch.manual_seed(1)
        record, _ = recorded(module, tmp_path / name)
        states.append(torch.random.get_rng_state())
        assert record["status"] == "success"
        assert module.net.training
    assert torch.equal(*states)
    assert (tmp_path / "drawing" / "first.txt").is_file()
    lines = [x for x in capsys.readouterr().err.splitlines() if "picture" in x]
    folder = tmp_path / "drawing"
    assert lines == [f"Warning: a picture in {folder} is missing (RuntimeError: no picture)"]
