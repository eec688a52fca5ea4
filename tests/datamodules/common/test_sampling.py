"""Sampler: ranks disjoint, orders pure, resumed runs see what is left."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch.utils.data import DataLoader, Dataset

from datamodules.common.sampling import (
    EpochSampler,
    SampleKey,
    epoch_order,
    evaluation_indices,
    padded_length,
    resume_position,
    run_seed,
    sample_rng,
)


def make(
    rank: int = 0, world_size: int = 1, batch_size: int = 2, accumulate: int = 1, **options: Any
) -> EpochSampler:
    """A sampler over 7 samples."""
    return EpochSampler(
        7, batch_size * world_size * accumulate, rank, world_size, batch_size, seed=5, **options
    )


@pytest.mark.parametrize(
    ("batch", "expected"), [(2, 168), (32, 192), (56, 168), (80, 240), (128, 256), (400, 400)]
)
def test_padded_length_examples_of_the_benchmark(batch: int, expected: int) -> None:
    assert padded_length(168, batch) == expected


def test_sampler_padding_repeats_the_epochs_own_first_entries() -> None:
    keys = [key for batch in make(batch_size=16) for key in batch]
    order = epoch_order(7, 5, 0).tolist()
    assert [key.index for key in keys] == order + order + order[:2]
    assert [key.repeat for key in keys] == [0] * 7 + [1] * 7 + [2] * 2


def test_sampler_ranks_together_see_the_one_rank_order() -> None:
    alone = [key for batch in make(batch_size=4, accumulate=2) for key in batch]
    pairs = zip(
        *(make(rank, 2, batch_size=2, accumulate=2) for rank in range(2)),
        strict=True,
    )
    together = [key for a, b in pairs for both in zip(a, b, strict=True) for key in both]
    assert alone == together
    assert len(make(0, 2, batch_size=2, accumulate=2)) == 2


def test_sampler_order_depends_on_seed_and_epoch_only() -> None:
    sampler = make()
    first = list(sampler)
    assert first == list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert {key.epoch for batch in sampler for key in batch} == {1}
    assert not np.array_equal(epoch_order(50, 1, 0), epoch_order(50, 2, 0))


def test_sampler_without_shuffle_counts_up() -> None:
    keys = [key for batch in make(shuffle=False) for key in batch]
    assert [key.index for key in keys] == [0, 1, 2, 3, 4, 5, 6, 0]


def test_sampler_start_batch_skips_in_the_start_epoch_only() -> None:
    whole, resumed = make(), make(start_batch=3, start_epoch=2)
    whole.set_epoch(2)
    assert list(resumed) == list(whole)[3:]
    assert len(resumed) == 4
    resumed.set_epoch(3)
    assert len(list(resumed)) == 4


def test_sampler_uneven_global_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of batch_size x ranks = 2 x 2"):
        EpochSampler(7, 6, 0, 2, 2, 5)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        EpochSampler(0, 2, 0, 1, 2, 5)


def test_sample_rng_streams_differ_in_every_part() -> None:
    parts = [(1, 2, 3, 0), (2, 2, 3, 0), (1, 3, 3, 0), (1, 2, 4, 0), (1, 2, 3, 1), (1, 2, 0, 0)]
    assert len({sample_rng(*part).random() for part in parts}) == len(parts)
    assert sample_rng(1, 2, 3).random() == sample_rng(1, 2, 3).random()


def test_run_seed_is_what_seed_everything_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    assert run_seed() == 0
    monkeypatch.setenv("PL_GLOBAL_SEED", "17")
    torch.manual_seed(3)
    assert run_seed() == 17


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_evaluation_indices_cover_each_sample_once(world_size: int) -> None:
    shares = [
        evaluation_indices(
            42,
            SimpleNamespace(global_rank=rank, world_size=world_size, strategy=None),  # type: ignore[arg-type]
        )
        for rank in range(world_size)
    ]
    assert sorted(index for share in shares for index in share) == list(range(42))


def test_evaluation_indices_sharded_model_takes_all() -> None:
    trainer = SimpleNamespace(global_rank=1, world_size=2, strategy=FSDPStrategy())
    assert evaluation_indices(5, trainer) == range(5)  # type: ignore[arg-type]


@pytest.mark.parametrize(("num_samples", "mine"), [(5, range(1, 5, 2)), (1, range(1))])
def test_evaluation_indices_are_shared_where_the_strategy_gathers(num_samples, mine) -> None:
    strategy = FSDPStrategy()
    strategy.shares_evaluation = True  # type: ignore[attr-defined]
    trainer = SimpleNamespace(global_rank=1, world_size=2, strategy=strategy)
    assert evaluation_indices(num_samples, trainer) == mine  # type: ignore[arg-type]


class _Keys(Dataset[torch.Tensor]):
    """Hands its keys back."""

    def __getitem__(self, key: SampleKey) -> torch.Tensor:
        return torch.tensor([key.epoch * 1000 + key.index])


class _Data(L.LightningDataModule):
    """The loader every data module here builds, with a validation set of one."""

    def __init__(self, num_workers: int) -> None:
        super().__init__()
        self.num_workers = num_workers

    def train_dataloader(self) -> DataLoader[torch.Tensor]:
        epoch, done = resume_position(self.trainer)
        sampler = make(start_epoch=epoch, start_batch=done)
        return DataLoader(
            _Keys(),
            batch_sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def val_dataloader(self) -> DataLoader[torch.Tensor]:
        return DataLoader([torch.zeros(1)])  # type: ignore[arg-type]


class _KilledError(Exception):
    """Stands for SIGKILL right after a checkpoint."""


class _Recorder(L.LightningModule):
    """Writes down the batches it sees; dies in one hook, from some step on."""

    def __init__(self, save: Callable[[L.Trainer], None] | None, hook: str, step: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[tuple[int, int, list[int]]] = []
        self.save, self.hook, self.step = save, hook, step

    def _maybe_die(self, hook: str) -> None:
        if self.save is not None and hook == self.hook and self.global_step >= self.step:
            self.save(self.trainer)
            raise _KilledError

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.seen.append((self.current_epoch, batch_idx, batch.flatten().int().tolist()))
        return self.layer(batch.float()).mean() * 0

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        """Nothing to measure."""

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        self._maybe_die("on_train_batch_start")

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        self._maybe_die("on_train_batch_end")

    def on_validation_end(self) -> None:
        self._maybe_die("on_validation_end")

    def on_train_epoch_end(self) -> None:
        self._maybe_die("on_train_epoch_end")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def _fit(module: _Recorder, num_workers: int, checkpoint: Path | None = None) -> list[Any]:
    trainer = L.Trainer(
        max_epochs=4,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=2,
    )
    with suppress(_KilledError):
        trainer.fit(module, _Data(num_workers), ckpt_path=checkpoint, weights_only=False)
    return module.seen


@pytest.mark.parametrize(
    ("hook", "step", "num_workers"),
    [
        ("on_train_batch_start", 3, 0),
        ("on_train_batch_start", 8, 1),
        ("on_train_batch_end", 1, 0),
        ("on_train_batch_end", 3, 1),
        ("on_train_batch_end", 4, 0),  # last batch of an epoch that has no evaluation
        ("on_train_batch_end", 8, 1),  # last batch of an epoch that has one
        ("on_train_batch_end", 13, 0),
        ("on_validation_end", 1, 0),
        ("on_validation_end", 1, 1),
        ("on_train_epoch_end", 1, 0),
        ("on_train_epoch_end", 5, 1),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_resume_position_resumed_run_sees_exactly_the_rest(
    hook: str, step: int, num_workers: int, tmp_path: Path
) -> None:
    path = tmp_path / "at.ckpt"
    uninterrupted = _fit(_Recorder(None, "", 0), 0)
    before = _fit(_Recorder(lambda trainer: trainer.save_checkpoint(path), hook, step), num_workers)
    after = _fit(_Recorder(None, "", 0), num_workers, path)
    assert len(uninterrupted) == 16
    assert before + after == uninterrupted
