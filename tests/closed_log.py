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


class Scripted(ToyModule):
    """A toy with the benchmark's facts, whose evaluations follow a script."""

    late_metrics: Future[dict[str, float]] | None = None

    def __init__(
        self,
        script: dict[str, list[float]],
        facts: dict[str, object],
        tensors: tuple[str, ...],
        late: bool,
    ) -> None:
        super().__init__()
        self.values, self.facts, self.tensors, self.late = script, facts, tensors, late
        self.metric_names = tuple(script)

    def on_validation_epoch_end(self) -> None:
        now = {k: v[min(self.evaluations, len(v) - 1)] for k, v in self.values.items()}
        self.evaluations += 1
        if self.late:
            self.late_metrics = Future()
            self.late_metrics.set_result(now)
            return
        for name, value in now.items():
            self.log(f"val/{name}", _double(value))

    def mllog_facts(self) -> dict[str, object]:
        return self.facts

    def mllog_tensors(self) -> tuple[str, ...]:
        return self.tensors


class FactsData(ToyData):
    def __init__(self, facts: dict[str, object]) -> None:
        super().__init__()
        self.facts = facts

    def mllog_facts(self) -> dict[str, object]:
        return self.facts


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
    module = Scripted(script, module_facts, tensors, late)
    callbacks = _callbacks(folder, benchmark, division)
    with contextlib.suppress(StopRun):
        toy_trainer(callbacks, max_epochs=-1, **(trainer or {})).fit(
            module, datamodule=FactsData(data_facts)
        )
    return folder / "result.txt"


def _callbacks(folder: Path, benchmark: Benchmark, division: str) -> list[Any]:
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
    return [schedule, target, log]


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
