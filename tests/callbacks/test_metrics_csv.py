"""What a killed run keeps of its metrics."""

import csv

from callbacks.metrics_csv import MetricsCSV
from tests.toy import FakeTime, ToyData, ToyModule, fake_state, toy_trainer


def test_rows_reach_the_file_within_a_second(tmp_path):
    time = FakeTime()
    state = fake_state(time)
    state.clock.mark("run_start")
    logger = MetricsCSV(state, lambda: tmp_path)
    for step in range(1, 9):
        time.now += 0.4
        logger.log_metrics({"train/loss": 1.0 / step}, step)
    # Nothing has called save or finalize: this is what a kill leaves.
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    logger.finalize("failed")
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [float(row["train/loss"]) for row in rows] == [1.0 / step for step in range(1, 9)]
    assert float(rows[-1]["seconds"]) == 3.2


def test_lightning_saving_after_every_row_opens_no_file_each_time(tmp_path, monkeypatch):
    """On a file server an opened file costs milliseconds, in every tenth step."""
    time, writes = FakeTime(), []
    state = fake_state(time)
    logger = MetricsCSV(state, lambda: writes.append(1) or tmp_path)

    class Logs(ToyModule):
        def training_step(self, batch, batch_idx):
            time.now += 0.1
            loss = super().training_step(batch, batch_idx)
            self.log("train/loss", loss.detach())
            return loss

    trainer = toy_trainer([], logger=logger, max_epochs=5, log_every_n_steps=1)
    trainer.fit(Logs([0.0]), ToyData())
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert len([row for row in rows if row["train/loss"]]) == 30
    # One per second, one per new column, one each at start and end.
    assert len(writes) <= 3 + 3 + 2


def test_run_that_logs_nothing_leaves_the_file_too(tmp_path):
    logger = MetricsCSV(fake_state(FakeTime()), lambda: tmp_path)
    logger.log_hyperparams({"model": 1})
    logger.finalize("failed")
    assert (tmp_path / "metrics.csv").read_text().strip() == "step,samples,seconds"
    logger.log_metrics({"train/loss": 0.5}, 3)
    logger.finalize("success")
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [(row["step"], row["train/loss"]) for row in rows] == [("3", "0.5")]
