"""A tiny module and datamodule with scripted metrics, for tests of the shared machinery."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks.clock import RunClock
from callbacks.quality_target import RunState


class FakeTime:
    """Seconds that move only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def fake_state(time: FakeTime) -> RunState:
    return RunState(clock=RunClock(monotonic=time, wall=lambda: 1_600_000_000.0, age_seconds=2.0))


class ToyModule(L.LightningModule):
    """Learns a line; its evaluations report a script, one entry per evaluation."""

    metric_names: ClassVar[tuple[str, ...]] = ("score", "other")

    def __init__(self, script: Sequence[float] = (), *, time: FakeTime | None = None) -> None:
        super().__init__()
        self.net = nn.Linear(2, 1)
        self.script, self.time = list(script), time
        self.losses: list[float] = []
        self.evaluations = 0

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        if self.time:
            self.time.now += 1.0
        x, y = batch
        loss = ((self.net(x) - y) ** 2).mean()
        self.losses.append(float(loss.detach()))
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        if self.time:
            self.time.now += 0.25

    def on_validation_epoch_end(self) -> None:
        value = self.script[min(self.evaluations, len(self.script) - 1)] if self.script else 0.0
        self.evaluations += 1
        self.log("val/score", torch.tensor(value, dtype=torch.float64))
        self.log("val/other", torch.tensor(1.0 - value, dtype=torch.float64))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)

    def mllog_facts(self) -> dict[str, object]:
        return {"opt_name": "sgd"}


class ToyData(L.LightningDataModule):
    """Twelve samples in batches of two; two evaluation batches."""

    batch_size = 2
    samples_per_epoch = 12
    demo = True

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        x = torch.arange(24.0).reshape(12, 2) / 24
        return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=2)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(TensorDataset(torch.zeros(4, 2), torch.zeros(4, 1)), batch_size=2)

    def synthetic_batch(self) -> list[Tensor]:
        return [torch.randn(2, 2), torch.randn(2, 1)]

    def mllog_facts(self) -> dict[str, object]:
        return {"train_samples": 12, "eval_samples": 4}


def toy_trainer(callbacks: list[L.Callback], **settings: object) -> L.Trainer:
    defaults: dict[str, object] = {
        "max_epochs": 5,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "use_distributed_sampler": False,
    }
    return L.Trainer(**{**defaults, **settings}, callbacks=callbacks)  # type: ignore[arg-type]
