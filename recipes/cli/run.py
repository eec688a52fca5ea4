"""One training run: its callbacks, its trainer, its configuration and its last sentence."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from callbacks import wandb_run
from callbacks.checkpoint import Checkpoint, LastCheckpoint
from callbacks.evaluation_schedule import EvaluationSchedule
from callbacks.metrics_csv import MetricsCSV
from callbacks.mlperf_log import MLPerfLog
from callbacks.progress import Progress, human_time
from callbacks.quality_target import QualityTarget, RunState, StopReason, StopRun
from callbacks.run_folder import RunFolder
from callbacks.run_record import RunRecord
from callbacks.warm_up import WarmUp
from recipes.cli.benchmark import Benchmark
from recipes.cli.division import net_arguments, net_name
from recipes.cli.loggers import spare_warnings
from recipes.cli.parser import RecipeCLI
from recipes.cli.screen import fitted

# Groups that only one command knows, or that name the run itself: not part of config.yaml.
NOT_SAVED = ("config", "ckpt_path", "print_config")


class Run:
    """One training run: division, callbacks, trainer and the last sentence.

    Args:
        benchmark: The data sheet.
        cli: Parsed flags, module and datamodule.
        state: The run's shared state.
        resumed_from: Folder of the run that this one continues.
    """

    def __init__(
        self, benchmark: Benchmark, cli: RecipeCLI, state: RunState, resumed_from: Path | None
    ) -> None:
        self.benchmark, self.cli, self.state = benchmark, cli, state
        self.resumed_from = resumed_from
        self.demo, self.division = cli.demo, cli.division
        self.folder = RunFolder(cli.config.output_root, benchmark.name, cli.config.seed_everything)
        self.target: QualityTarget = cli.config_init.target
        self.target.state = state
        self._others_wandb = wandb_run.current_run()
        self.trainer = self._trainer()

    def _trainer(self) -> Trainer:
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
        )
        record = RunRecord(
            target=self.target,
            warm_up=warm_up,
            folder=folder,
            facts=self.facts,
            config=yaml.safe_load(config_text(cli)),
        )
        checkpoint = Checkpoint(
            cli.config.checkpoint.every_seconds,
            folder=folder,
            state=state,
            benchmark=self.benchmark.name,
        )
        # Order matters: the folder exists first, the warm-up ends before the target starts the
        # clock, and everybody after the target reads its decision.
        last = LastCheckpoint(checkpoint)
        ours = [self.folder, schedule, warm_up, self.target, log, last, record, checkpoint]
        settings: dict[str, Any] = {}
        if cli.config.trainer.enable_progress_bar in (None, True):
            ours.append(Progress(self.target, schedule))
        self._ours = ours
        settings["callbacks"] = [*self._users("callbacks"), *ours]
        loggers = self._users("logger")
        spare_warnings(loggers)
        settings["logger"] = [MetricsCSV(state, folder), *loggers]
        return cli.build_trainer(**settings)

    def _users(self, name: str) -> list[Any]:
        """Loggers or callbacks that the user asked for, whatever form they came in."""
        given = self.cli.config_init.trainer[name]
        if given in (None, True, False):
            return []
        return given if isinstance(given, list) else [given]

    def facts(self) -> dict[str, Any]:
        """What the record says of the run beside its measurements.

        Returns:
            Key -> plain value.
        """
        self._save_config()
        return {
            "benchmark": self.benchmark.name,
            "division": self.division,
            "dataset": self.benchmark.dataset,
            "demo": self.demo,
            "net": net_name(self.cli.config.model.net),
            "net_arguments": net_arguments(self.cli.config.model.net),
            "reference_net": net_name(self.cli.parser.get_defaults().model.net),
            "resumed_from": self.resumed_from and str(self.resumed_from),
        }

    def _save_config(self) -> None:
        path = self.folder.path / "config.yaml"
        if self.trainer.is_global_zero and not path.exists():
            # Rank 0's seed is the run's, whatever each process drew before they met.
            self.cli.config.seed_everything = torch.initial_seed() % 2**32
            text = config_text(self.cli)
            path.write_text(
                f"# Run it again: python recipes/{self.benchmark.name}.py fit "
                f"--config {shlex.quote(str(path))}\n{text}"
            )

    def end_without_a_step(self) -> StopRun | None:
        """End a run that Lightning left without any hook, as its checkpoint had no budget left.

        Returns:
            Why it ended; ``None`` for a run that has ended already.
        """
        if self.state.stop_reason is not None:
            return None
        for callback in self._ours:
            callback.on_train_end(self.trainer, self.cli.model)
        reason = "the budget was used up before; a greater --evaluation.limit trains on"
        return StopRun(StopReason.BUDGET_EXHAUSTED, reason)

    def verdict(self, stopped: StopRun | None) -> int:
        """Print the last sentence of the run.

        Args:
            stopped: What left the training loop early, if anything did.

        Returns:
            Exit status: 0 target reached, 3 not reached, 130 interrupted. It is rank 0's to give:
            where all ranks end the run together, the others give 0.
        """
        state, name = self.state, self.benchmark.name
        quality = ", ".join(f"{key} {value:.6g}" for key, value in state.quality.items())
        after = f"after {human_time(state.clock.seconds)}"
        see = f"see {self.folder.path}" if self.folder.created else "nothing was written"
        root = self.cli.config.output_root
        again = f"python recipes/{name}.py fit --ckpt_path last"
        again += "" if root == Path("runs") else f" --output_root {shlex.quote(str(root))}"
        if state.stop_reason is StopReason.TARGET_REACHED:
            resumed = " (resumed run, not a timed result)" if state.resumed else ""
            kind = "demo" if self.demo else f"{self.division} division"
            text = f"{name} {kind}: target reached{resumed}, {quality} {after}; {see}"
            status = 0
        elif state.stop_reason is StopReason.INTERRUPTED:
            kept = self.folder.created and (self.folder.path / "checkpoints/last.ckpt").is_file()
            hint = f"resume with {again}; " if kept else ""
            text, status = f"{name}: interrupted {after}; {hint}{see}", 130
        else:
            reason = f" ({stopped})" if stopped else ""
            best = quality or "no evaluation finished"
            text = f"{name}: target not reached{reason}, {best} {after}; {see}"
            status = 3
        if self.folder.created:  # else no logger began, and asking for its run would begin one
            wandb_run.close(self.trainer, status, keep=self._others_wandb)
        rank_zero_only(print)(fitted(text), flush=True)
        together = stopped is not None or state.stop_reason is not StopReason.INTERRUPTED
        return own_status(self.trainer, status) if together else status


def own_status(trainer: Trainer, status: int) -> int:
    """Exit status of this rank when all ranks have come to the end.

    Launchers (Lightning's within five seconds, torchrun at once) kill every process when one ends
    with another status than 0, and rank 0 may still be writing its record.

    Args:
        trainer: The trainer.
        status: What the command as a whole ends with.

    Returns:
        The status on rank 0, 0 on the others.
    """
    return status if trainer.is_global_zero else 0


def config_text(cli: RecipeCLI) -> str:
    """The resolved configuration.

    Args:
        cli: Parsed flags.

    Returns:
        YAML that ``--config`` reads, for ``fit`` as for ``validate``.
    """
    text = cli.parser.dump(cli.config, skip_unset=True, skip_validation=True)
    content = {k: v for k, v in yaml.safe_load(text).items() if k not in NOT_SAVED}
    loggers = content.get("trainer", {}).get("logger")
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        if cli.config.ckpt_path and isinstance(logger, dict):
            logger.get("init_args", {}).pop("id", None)  # only this resumed run goes on in it
    return yaml.safe_dump(content, sort_keys=False)
