"""One training run: its callbacks, trainer, configuration and verdict."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from callbacks import wandb_run
from callbacks.checkpoint import Checkpoint, LastCheckpoint
from callbacks.checkpoint_files import checkpoint_of
from callbacks.energy import Energy
from callbacks.evaluation_schedule import EvaluationSchedule
from callbacks.lightning_private import skip_empty_hooks
from callbacks.live_line import LIVE, human_time
from callbacks.metrics_csv import MetricsCSV
from callbacks.mlperf_log import MLPerfLog
from callbacks.progress import Progress
from callbacks.quality_target import QualityTarget, RunState, StopReason, StopRun
from callbacks.run_folder import RunFolder
from callbacks.run_record import RunRecord, num_parameters
from callbacks.signals import signals_as
from callbacks.unprofiled import Unprofiled
from callbacks.warm_up import WarmUp
from callbacks.writing import reporting_errors, writing
from recipes.cli.benchmark import Benchmark
from recipes.cli.data_check import DataCheck
from recipes.cli.division import net_name
from recipes.cli.loggers import silence_wandb_warnings
from recipes.cli.net_line import NetLine
from recipes.cli.parser import RecipeCLI
from recipes.cli.presets import announce_demo
from recipes.cli.resume_check import ResumeCheck
from recipes.cli.resume_line import resume_command, script
from recipes.cli.saved_config import config_text
from recipes.cli.screen import visible, wrap_to_terminal
from recipes.cli.shards import open_note


class Run:
    """One training run; ``resumed_from`` is the directory of the run that it continues."""

    def __init__(
        self, benchmark: Benchmark, cli: RecipeCLI, state: RunState, resumed_from: Path | None
    ) -> None:
        self.benchmark, self.cli, self.state = benchmark, cli, state
        self.resumed_from = resumed_from
        self.demo, self.division = cli.demo, cli.division
        self.folder = RunFolder(cli.config.output_root, benchmark.name, cli.config.seed_everything)
        self.target: QualityTarget = cli.config_init.target
        self.target.state = state
        self._users_wandb_run = wandb_run.current_run()
        self.trainer = self._trainer()

    def _trainer(self) -> Trainer:
        cli = self.cli
        self._ours = self._callbacks()
        for callback in self._ours:
            skip_empty_hooks(callback)
        loggers = self._given("logger")
        silence_wandb_warnings(loggers)
        return cli.build_trainer(
            callbacks=[*self._given("callbacks"), *self._ours],
            logger=[MetricsCSV(self.state, lambda: self.folder.path), *loggers],
            profiler=cli.config_init.trainer.profiler or Unprofiled(),
        )

    def _callbacks(self) -> list[Callback]:
        cli, state, folder = self.cli, self.state, lambda: self.folder.path
        schedule: EvaluationSchedule = cli.config_init.evaluation
        if cli.config.evaluation.every == cli.parser.get_defaults().evaluation.every:
            schedule.every_of_batch = self.benchmark.evaluation_every
        warm_up: WarmUp = cli.config_init.warmup
        submission = cli.config_init.submission
        log = MLPerfLog(
            benchmark=self.benchmark.name,
            state=state,
            folder=folder,
            schedule=schedule,
            division=lambda: self.division,
            submission=submission.names,
            clear_cache=submission.clear_cache,
            unit=self.benchmark.progress_unit,
            quality_names=self.benchmark.quality_names,
            discloses=self.benchmark.discloses,
        )
        self._data_check = data_check = DataCheck(self.benchmark, self.division)
        energy = Energy(state, cost_per_hour=cli.config.get("cost_per_hour"))
        self.record = RunRecord(
            target=self.target,
            warm_up=warm_up,
            folder=folder,
            facts=self.facts,
            config=yaml.safe_load(config_text(cli)),
            used=energy.record,
        )
        checkpoint = Checkpoint(
            cli.config.checkpoint.every_seconds,
            folder=folder,
            state=state,
            benchmark=self.benchmark.name,
        )
        progress = cli.config.trainer.enable_progress_bar in (None, True)
        # Order matters: data is refused before the run has a directory, which exists before all
        # else; the warm-up ends before the target starts the clock, and those after the target
        # read its decision.
        return [
            data_check,
            NetLine(cli.net, cli.model),
            self.folder,
            LambdaCallback(setup=self._begin),
            schedule,
            warm_up,
            self.target,
            log,
            energy,
            LastCheckpoint(checkpoint),
            self.record,
            checkpoint,
            ResumeCheck(cli),
            *([Progress(self.target, schedule)] if progress else []),
        ]

    def _begin(self, trainer: Trainer, *args: Any, **stage: str) -> None:
        """Announce the run: nothing was wrong with its settings, data and directory."""
        LIVE.show("setting up the run")
        wandb_run.name_runs(trainer, self.folder.path, keep=self._users_wandb_run)
        line = open_note(self.cli.config.data)
        if line and self.cli.command == "fit":  # `speed` has several runs
            rank_zero_only(print)(wrap_to_terminal(line), flush=True)
        if self.demo and self.cli.command == "fit":
            cli = self.cli
            announce_demo(self.benchmark, "fit", cli.arguments, spares_mac=cli.spares_mac)

    def _given(self, name: str) -> list[Any]:
        """Return the user's loggers or callbacks as a list."""
        given = self.cli.config_init.trainer[name]
        if given in (None, True, False):
            return []
        return given if isinstance(given, list) else [given]

    def facts(self) -> dict[str, Any]:
        """Return the record's facts that are not measured: key -> plain value."""
        self._save_config()
        return {
            "benchmark": self.benchmark.name,
            "division": self.division,
            "dataset": self._data_check.dataset,
            "demo": self.demo,
            "net": {**self.cli.net.record(), "parameters": num_parameters(self.cli.model)},
            "reference_net": net_name(self.cli.parser.get_defaults().model.net),
            "resumed_from": self.resumed_from and str(self.resumed_from),
        }

    def _save_config(self) -> None:
        path = self.folder.path / "config.yaml"
        if self.trainer.is_global_zero and not path.exists():
            # The seed of rank 0, which RunFolder gave to every rank.
            self.cli.config.seed_everything = torch.initial_seed() % 2**32
            text = config_text(self.cli)
            recipe = shlex.quote(script(self.benchmark.name))
            again = f"python {recipe} fit --config {shlex.quote(str(path))}"
            with writing(path):
                path.write_text(f"# Run it again: {again}\n{text}")

    def complete_record(self, error: BaseException) -> None:
        """Write the record of a run whose end a signal cut before that was written."""
        if not self.folder.created or self.state.recorded:
            return
        with signals_as(signal.SIG_IGN), reporting_errors("run.json could not be written"):
            self.target.on_exception(self.trainer, self.cli.model, error)
            self.record.finish(self.trainer)

    def end_without_a_step(self) -> StopRun | None:
        """End a run that Lightning left without any hook: its checkpoint had no budget left."""
        if self.state.stop_reason is not None:
            return None
        for callback in self._ours:
            callback.on_train_end(self.trainer, self.cli.model)
        reason = "the budget was used up before; raise --evaluation.limit to train further"
        return StopRun(StopReason.BUDGET_EXHAUSTED, reason)

    def verdict(self, stopped: StopRun | None) -> int:
        """Print the run's last line and return the exit status: 0, 3 or 130."""
        text, status = self._outcome(stopped)
        if self.folder.created:  # otherwise asking a logger for its W&B run would start one
            wandb_run.close(self.trainer, status, keep=self._users_wandb_run)
        rank_zero_only(print)(f"{self._resume_line()}{wrap_to_terminal(text)}", flush=True)
        together = stopped is not None or self.state.stop_reason is not StopReason.INTERRUPTED
        return rank_zero_exit_code(self.trainer, status) if together else status

    def _outcome(self, stopped: StopRun | None) -> tuple[str, int]:
        """Return the last line and the exit status."""
        state, name = self.state, self.benchmark.name
        quality = ", ".join(f"{key} {value:.6g}" for key, value in state.quality.items())
        after = f"after {human_time(state.clock.seconds)}"
        kind = "demo" if self.demo else f"{self.division} division"
        see = f"see {self.folder.path}" if self.folder.created else "nothing was written"
        if state.stop_reason is StopReason.TARGET_REACHED:
            resumed = " (resumed run, not a timed result)" if state.resumed else ""
            return f"{name} {kind}: target reached{resumed}, {quality} {after}; {see}", 0
        if state.stop_reason is StopReason.INTERRUPTED:
            return f"{name} {kind}: interrupted {after}; {see}", 130
        reason = f" ({stopped})" if stopped else ""
        best = quality or "no evaluation finished"
        return f"{name} {kind}: target not reached{reason}, {best} {after}; {see}", 3

    def _resume_line(self) -> str:
        """Return the command that goes on, on a line of its own and never wrapped: to be pasted."""
        interrupted = self.state.stop_reason is StopReason.INTERRUPTED
        if not interrupted or not self.folder.created or checkpoint_of(self.folder.path) is None:
            return ""
        command = resume_command(self.benchmark, self.cli, self.resumed_from)
        return f"resume with: {visible(command)}\n"


def rank_zero_exit_code(trainer: Trainer, status: int) -> int:
    """Return the command's status on rank 0, and 0 on the others."""
    # Launchers (Lightning's within five seconds, torchrun at once) kill every process when one ends
    # with another status than 0, and rank 0 may still be writing its record.
    return status if trainer.is_global_zero else 0
