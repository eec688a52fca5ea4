"""What a step costs besides its work: recipe, bare Trainer and plain loop, taking turns."""

import importlib
import statistics
import time
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from torch.utils.data import DataLoader

from callbacks.quality_target import RunState
from callbacks.warm_up import without_logging
from datamodules.common.base import BenchmarkDataModule
from recipes.cli.parser import RecipeCLI
from recipes.cli.presets import demo_preset
from recipes.cli.run import Run

ROUNDS, STEPS, SKIPPED = 7, 220, 20


class StepEnds(L.Callback):
    """Record the processor time at each step's end; last of all, after what the others do."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def on_train_batch_end(self, *args: Any) -> None:
        self.moments.append(time.process_time())


class Replay(BenchmarkDataModule):
    """A few real batches again and again: reading is none of the loop's work."""

    def __init__(self, source: Any, batches: list[Any]) -> None:
        super().__init__()
        self._source, self._batches = source, batches
        self.batch_size = source.batch_size
        self.samples_per_epoch = self.num_train_samples = source.batch_size * STEPS

    def train_dataloader(self) -> DataLoader[Any]:
        batches: Any = [self._batches[i % len(self._batches)] for i in range(STEPS)]
        return DataLoader(batches, batch_size=None, collate_fn=_as_it_is)

    def val_dataloader(self) -> DataLoader[Any]:
        batches: Any = self._batches[:1]
        return DataLoader(batches, batch_size=None, collate_fn=_as_it_is)

    def transfer_batch_to_device(self, batch: Any, device: Any, index: int) -> Any:
        return self._source.transfer_batch_to_device(batch, device, index)


def _as_it_is(batch: Any) -> Any:
    return batch


class Loops:
    """The same steps of one demo in three loops, each returning the moments of their ends."""

    def __init__(self, stem: str, folder: Path) -> None:
        benchmark = importlib.import_module(f"recipes.{stem}").BENCHMARK
        flags = ["--config", str(demo_preset(benchmark)), "--trainer.accelerator", "cpu"]
        flags += ["--output_root", str(folder)]
        self.benchmark, self.cli = benchmark, RecipeCLI(benchmark, "speed", flags)
        self.cli.datamodule.prepare_data()
        self.batches = list(islice(self.cli.datamodule.train_dataloader(), 4))

    def recipe(self) -> list[float]:
        """All callbacks and loggers of ``fit``."""
        ends, config = StepEnds(), self.cli.config_init
        config.evaluation.at, config.evaluation.limit = (), 1
        config.evaluation.unit, config.warmup.steps = "epochs", 0
        config.evaluation.first = config.evaluation.every = 1e15
        run = Run(self.benchmark, self.cli, RunState(), resumed_from=None)
        run.trainer.callbacks.append(ends)  # type: ignore[attr-defined]
        run.trainer.fit(self.cli.model, datamodule=Replay(self.cli.datamodule, self.batches))
        return ends.moments

    def bare(self) -> list[float]:
        """Lightning's Trainer with nothing of ours, no logger, no progress bar."""
        ends = StepEnds()
        trainer = self.cli.build_trainer(
            callbacks=[ends], logger=False, enable_progress_bar=False, max_epochs=1,
            limit_val_batches=0,
        )  # fmt: skip
        trainer.fit(self.cli.model, datamodule=Replay(self.cli.datamodule, self.batches))
        return ends.moments

    def plain(self) -> list[float]:
        """The loop that one would write without Lightning."""
        module, moments = self.cli.model, []
        configured: Any = module.configure_optimizers()
        optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
        module.train()
        with without_logging(module):
            for number in range(STEPS):
                optimizer.zero_grad()
                loss = module.training_step(self.batches[number % len(self.batches)], number)
                (loss["loss"] if isinstance(loss, dict) else loss).backward()
                optimizer.step()
                scheduler.step()
                moments.append(time.process_time())
        return moments


@pytest.mark.speed
@pytest.mark.slow
@pytest.mark.parametrize("stem", ["dlrm", "minigo"])
def test_a_recipes_step_costs_at_most_2_percent_more_than_a_bare_trainers(stem, tmp_path):
    loops = Loops(stem, tmp_path)
    kinds = [loops.recipe, loops.bare, loops.plain]
    rounds = []
    for number in range(ROUNDS):
        seconds = {}
        for kind in (*kinds[number % 3 :], *kinds[: number % 3]):
            moments = kind()[SKIPPED:]
            seconds[kind.__name__] = (moments[-1] - moments[0]) / (len(moments) - 1)
        rounds.append(seconds)
    milliseconds = {
        kind.__name__: 1000 * statistics.median(one[kind.__name__] for one in rounds)
        for kind in kinds
    }
    over_bare = statistics.median(one["recipe"] / one["bare"] for one in rounds)
    over_plain = statistics.median(one["bare"] / one["plain"] for one in rounds)
    print(f"\n{stem}: ms per step {milliseconds}")
    print(f"{stem}: recipe / bare Trainer {over_bare:.3f}, bare / plain loop {over_plain:.3f}")
    assert over_bare <= 1.02
