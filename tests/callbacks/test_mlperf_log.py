"""Events of the log: order, units, blocks, and what ends it."""

import contextlib
import json

import pytest

from callbacks import mlperf_log
from callbacks.evaluation_schedule import EvaluationSchedule
from callbacks.metrics_csv import MetricsCSV
from callbacks.mlperf_log import MLPerfLog
from callbacks.quality_target import QualityTarget, StopRun
from tests.toy import FakeTime, ToyData, ToyModule, fake_state, toy_trainer


def train(
    folder,
    script,
    *,
    schedule=None,
    unit="epochs",
    module=None,
    data=None,
    discloses=False,
    **settings,
):
    folder.mkdir(exist_ok=True)
    time = FakeTime()
    state = fake_state(time)
    schedule = EvaluationSchedule(**(schedule or {"every": 2, "limit": 6}))
    target = QualityTarget({"score": 0.5}, "max", state=state)
    log = MLPerfLog(
        benchmark="toy",
        state=state,
        folder=lambda: folder,
        schedule=schedule,
        division=lambda: "open",
        submission={"org": "o", "platform": "p", "status": "onprem"},
        unit=unit,
        discloses=discloses,
    )
    module = module or ToyModule(script, time=time)
    trainer = toy_trainer([schedule, target, log], max_epochs=-1, **settings)
    with contextlib.suppress(StopRun, RuntimeError):
        trainer.fit(module, datamodule=data or ToyData())
    return [json.loads(line.partition(" ")[2]) for line in (folder / "result.txt").open()]


def where(lines, key):
    return [
        {k: v for k, v in line["metadata"].items() if k not in ("file", "lineno")}
        for line in lines
        if line["key"] == key
    ]


def value(lines, key):
    return next(line["value"] for line in lines if line["key"] == key)


def test_epochs_blocks_and_times(tmp_path):
    lines = train(tmp_path, [0.1, 0.5])
    assert where(lines, "block_start") == [
        {"first_epoch_num": 1, "epoch_count": 2},
        {"first_epoch_num": 3, "epoch_count": 2},
    ]
    assert where(lines, "block_stop") == [{"first_epoch_num": 1}, {"first_epoch_num": 3}]
    assert where(lines, "epoch_stop") == [{"epoch_num": n} for n in (1, 2, 3, 4)]
    assert where(lines, "eval_accuracy") == [{"epoch_num": 2}, {"epoch_num": 4}]
    assert where(lines, "run_stop") == [{"status": "success"}]
    stamps = {line["key"]: line["time_ms"] for line in lines}
    assert stamps["run_start"] - stamps["init_start"] == 2000  # the process was 2 s old
    assert stamps["run_stop"] - stamps["run_start"] == 24 * 1000 + 4 * 250
    assert value(lines, "global_batch_size") == 2
    assert value(lines, "train_samples") == 12
    assert value(lines, "cache_clear") is False


def test_facts_of_an_epoch_are_logged_as_it_starts(tmp_path):
    class Played(ToyData):
        def mllog_epoch_facts(self):
            return {"games": 10 * (self.trainer.current_epoch + 1)}

    lines = train(tmp_path, [0.1, 0.5], data=Played())
    assert where(lines, "games") == [{"epoch_num": n} for n in (1, 2, 3, 4)]
    assert [line["value"] for line in lines if line["key"] == "games"] == [10, 20, 30, 40]
    keys = [line["key"] for line in lines]
    assert all(keys[n - 1] == "epoch_start" for n, key in enumerate(keys) if key == "games")


def test_samples_are_the_unit_and_train_samples_comes_last(tmp_path):
    class NoCount(ToyData):
        def mllog_facts(self):
            return {"eval_samples": 4}

    schedule = {"every": 8, "limit": 100, "unit": "samples", "round_to": "step"}
    lines = train(tmp_path, [0.1, 0.2, 0.5], schedule=schedule, unit="samples", data=NoCount())
    both = [{"epoch_num": n, "samples_count": n} for n in (8, 16, 24)]
    assert where(lines, "eval_start") == where(lines, "eval_accuracy") == both
    assert where(lines, "block_start") == [
        {"first_epoch_num": n, "epoch_count": 8, "samples_count": n} for n in (0, 8, 16)
    ]
    assert where(lines, "block_stop")[0] == {"first_epoch_num": 0, "samples_count": 8}
    assert where(lines, "epoch_start") == []
    assert value(lines, "train_samples") == 24
    assert lines[-1]["key"] == "run_stop"


@pytest.mark.parametrize(
    ("precision", "word"),
    [
        ("32-true", "fp32"),
        ("bf16-mixed", "bfloat16"),
        ("bf16-true", "bfloat16"),
        ("64-true", "fp64"),
    ],
)
def test_precision_and_parallelism_are_disclosed_where_the_round_wants_it(
    tmp_path, precision, word
):
    lines = train(tmp_path, [0.5], discloses=True, precision=precision)
    for part in ("linear", "attn"):
        assert value(lines, f"lowest_numerical_precision_in_{part}") == word
    # Gradients are summed in the type of the weights.
    sent = word if precision.endswith("-true") else "fp32"
    assert value(lines, "lowest_numerical_precision_in_comm") == sent
    for kind in ("tensor", "pipeline", "context", "expert"):
        assert value(lines, f"{kind}_parallelism") == 1
    assert value(lines, "micro_batch_size") == ToyData().batch_size
    assert value(lines, "config_filename") == "config.yaml"
    keys = [line["key"] for line in train(tmp_path / "plain", [0.5])]
    assert "micro_batch_size" not in keys


def test_fraction_counts_from_one(tmp_path):
    schedule = {"every": 6, "limit": 100, "unit": "samples", "round_to": "step"}
    lines = train(tmp_path, [0.1, 0.2, 0.5], schedule=schedule, unit="fraction")
    assert [w["epoch_num"] for w in where(lines, "eval_accuracy")] == [1.5, 2.0, 2.5]
    # As DLRM's reference: whole epochs around their evaluations, closed before the run is.
    for key in ("epoch_start", "epoch_stop"):
        assert where(lines, key) == [{"epoch_num": 1}, {"epoch_num": 2}]
    keys = [line["key"] for line in lines if line["key"].startswith(("epoch_", "eval_st", "run_"))]
    pair = ["eval_start", "eval_stop"]
    first, second = (
        ["epoch_start", *pair, *pair, "epoch_stop"],
        ["epoch_start", *pair, "epoch_stop"],
    )
    assert keys == ["run_start", *first, *second, "run_stop"]


def test_budget_end_is_aborted(tmp_path):
    lines = train(tmp_path, [0.1])
    assert where(lines, "run_stop") == [{"status": "aborted"}]
    assert where(lines, "eval_accuracy") == [{"epoch_num": n} for n in (2, 4, 6)]


def test_times_never_go_back_when_the_budget_ends_between_evaluations(tmp_path, monkeypatch):
    def ticking(self):
        self.now += 0.01
        return self.now

    monkeypatch.setattr(FakeTime, "__call__", ticking)
    lines = train(tmp_path, [0.1], schedule={"every": 2, "limit": 3})
    assert lines[-2]["key"] == "block_stop"
    times = [line["time_ms"] for line in lines]
    assert times == sorted(times)


def test_a_failure_still_closes_the_log(tmp_path):
    class Failing(ToyModule):
        def training_step(self, batch, batch_idx):
            raise RuntimeError("out of memory")

    lines = train(tmp_path, [0.1], module=Failing([0.1]))
    assert where(lines, "run_stop") == [{"status": "aborted"}]
    assert lines[-2]["key"] == "block_stop"


def test_clearing_the_cache_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(mlperf_log, "DROP_CACHES", tmp_path / "no" / "such")
    with pytest.raises(ValueError, match="run as root"):
        MLPerfLog(
            benchmark="toy",
            state=fake_state(FakeTime()),
            folder=lambda: tmp_path,
            schedule=EvaluationSchedule(),
            division=lambda: "open",
            submission={},
            clear_cache=True,
        )


def test_metrics_csv_grows_columns_and_keeps_rows(tmp_path):
    state = fake_state(FakeTime())
    state.clock.mark("run_start")
    logger = MetricsCSV(state, lambda: tmp_path)
    logger.log_metrics({"train/loss": 2.0}, step=1)
    state.samples = 8
    logger.log_metrics({"val/score": 0.5}, step=4)
    logger.log_metrics({"train/loss": 1.0}, step=5)
    logger.finalize("success")
    assert (tmp_path / "metrics.csv").read_text().splitlines() == [
        "step,samples,seconds,train/loss,val/score",
        "1,0,0.0,2.0,",
        "4,8,0.0,,0.5",
        "5,8,0.0,1.0,",
    ]
