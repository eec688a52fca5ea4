"""A tiny decoder in a module with exact sums, and tokens for it: for tests of sharded training."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from datamodules.common.sampling import EpochSampler, evaluation_indices, ranks, resume_position

WORDS, LENGTH, SAMPLES = 40, 6, 24


class Decoder(nn.Module):
    """Embedding, two causal layers, output: (B, S) ids -> (B, S, V) logits."""

    def __init__(self, words: int = WORDS, width: int = 12) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 20, dropout=0.0, batch_first=True)
            for _ in range(2)
        )
        self.output = nn.Linear(width, words)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        for layer in self.layers:
            x = layer(x, mask, is_causal=True)
        return self.output(x)


class DecoderModule(L.LightningModule):
    """Trains a decoder; its evaluation is a sum over samples and their number, in float64."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net = net or Decoder()
        self.losses: list[float] = []
        self.seen: list[int] = []
        self.values: list[tuple[float, float]] = []

    def loss(self, batch: Tensor) -> Tensor:
        logits = self.net(batch[:, :-2]).float()
        return F.cross_entropy(logits.transpose(1, 2), batch[:, 1:-1], reduction="none").mean(1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.loss(batch).mean()
        self.losses.append(float(loss.detach()))
        return loss

    def on_validation_epoch_start(self) -> None:
        self.sums = torch.zeros(2, dtype=torch.float64)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.seen += batch[:, -1].tolist()
        self.sums += torch.tensor([float(self.loss(batch).double().sum()), len(batch)])

    def on_validation_epoch_end(self) -> None:
        total, count = self.trainer.strategy.reduce(self.sums, reduce_op="sum").tolist()
        self.values.append((total, count))
        self.log("val/score", torch.tensor(-total / count, dtype=torch.float64))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2, eps=1e-5)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class TokenData(L.LightningDataModule):
    """Random tokens; a sample's last one is its number."""

    def __init__(self, batch_size: int, evaluated: int = 5) -> None:
        super().__init__()
        self.batch_size, self.evaluated = batch_size, evaluated
        tokens = torch.randint(WORDS, (SAMPLES, LENGTH), generator=torch.Generator().manual_seed(3))
        self.tokens = torch.cat((tokens, torch.arange(SAMPLES)[:, None]), 1)

    @property
    def samples_per_epoch(self) -> int:
        return SAMPLES

    def train_dataloader(self) -> DataLoader[Tensor]:
        rank, world = ranks(self.trainer)
        accumulation = self.trainer.accumulate_grad_batches
        epoch, done = resume_position(self.trainer)
        size = self.batch_size
        sampler = EpochSampler(
            SAMPLES, size * world * accumulation, rank, world, size, 7,
            start_batch=done, start_epoch=epoch,
        )  # fmt: skip
        return DataLoader(_Rows(self.tokens), batch_sampler=sampler)

    def val_dataloader(self) -> DataLoader[Tensor]:
        mine = evaluation_indices(self.evaluated, self.trainer)
        return DataLoader(torch.utils.data.Subset(self.tokens, mine), batch_size=2)  # type: ignore


class _Rows:
    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens

    def __getitem__(self, key: Any) -> Tensor:
        return self.tokens[key.index]
