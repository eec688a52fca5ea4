"""Writes a log as a closed run would, without the real data, and asks the official checker."""

from __future__ import annotations

import contextlib
import io
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from mlperf_logging.compliance_checker import mlp_compliance

from callbacks.evaluation_schedule import EvaluationSchedule
from callbacks.mlperf_log import MLPerfLog
from callbacks.quality_target import QualityTarget, StopRun
from recipes.cli.benchmark import Benchmark
from tests.toy import FakeTime, ToyData, ToyModule, fake_state, toy_trainer


def write_log(
    folder: Path,
    benchmark: Benchmark,
    *,
    module_facts: dict[str, object],
    data_facts: dict[str, object],
    tensors: tuple[str, ...] = (),
    quality: dict[str, list[float]] | None = None,
    division: str = "closed",
    trainer: dict[str, Any] | None = None,
    late: bool = False,
) -> Path:
    """Train a toy whose facts are the benchmark's and whose evaluations follow a script.

    ``quality`` maps each target metric to its values, one per evaluation; by default the first
    evaluation misses the target and the second meets it exactly. With ``late`` each result is known
    only after the first step of the next epoch.
    """
    worse = -0.1 if benchmark.mode == "max" else 0.1
    script = quality or {k: [v + worse, v] for k, v in benchmark.metrics.items()}

    class Module(ToyModule):
        metric_names = tuple(script)

        late_metrics: Future[dict[str, float]] | None = None

        def on_validation_epoch_end(self) -> None:
            now = {k: v[min(self.evaluations, len(v) - 1)] for k, v in script.items()}
            self.evaluations += 1
            if late:
                self.late_metrics = Future()
                self.late_metrics.set_result(now)
                return
            for name, value in now.items():
                self.log(f"val/{name}", _double(value))

        def mllog_facts(self) -> dict[str, object]:
            return module_facts

        def mllog_tensors(self) -> tuple[str, ...]:
            return tensors

    class Data(ToyData):
        def mllog_facts(self) -> dict[str, object]:
            return data_facts

    state = fake_state(FakeTime())
    schedule = EvaluationSchedule(every=1, limit=4)
    target = QualityTarget(benchmark.metrics, benchmark.mode, state=state)
    log = MLPerfLog(
        benchmark=benchmark.name,
        state=state,
        folder=lambda: folder,
        schedule=schedule,
        division=lambda: division,
        submission={"org": "tests", "platform": "toy", "status": "onprem"},
        unit=benchmark.progress_unit,
        quality_names=benchmark.quality_names,
        discloses=benchmark.discloses,
    )
    callbacks = [schedule, target, log]
    with contextlib.suppress(StopRun):
        toy_trainer(callbacks, max_epochs=-1, **(trainer or {})).fit(Module(), datamodule=Data())
    return folder / "result.txt"


def _double(value: float) -> Any:
    import torch

    return torch.tensor(value, dtype=torch.float64)


def compliance(path: Path, ruleset: str = "1.0.0") -> tuple[bool, list[str]]:
    """The official checker's verdict on one log and its messages, by the rules of one round."""
    mlp_compliance.enqueued_configs.clear()  # a crash of the checker leaves rule files behind
    checker = mlp_compliance.make_checker("training", ruleset, quiet=False, werror=False)
    with contextlib.redirect_stdout(io.StringIO()):
        valid, *_ = mlp_compliance.main(str(path), f"training_{ruleset}/common.yaml", checker)
    messages = [*checker.not_overwritable, *map(str, checker.overwritable.values())]
    return bool(valid), messages
