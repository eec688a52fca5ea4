"""DLRM on Criteo: how MLPerf Training v1.0 trains it and what it measures.

Letters: B rows. A batch is a dict: ``dense`` (B, 13) int32, ``sparse`` (B, 26) int32 and
``label`` (B,) uint8.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypedDict

import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.base import BenchmarkModule, scheduled
from modules.common.check_net import check_net
from modules.common.schedules import warmup_hold_poly
from modules.dlrm.auc import ExactAUC
from modules.dlrm.fused_embedding import fused_embeddings, parameters_to_ignore
from modules.dlrm.net import DLRM, NUM_DENSE
from modules.dlrm.picture import save_plots
from modules.dlrm.sparse_sgd import SparseSGD

# An AUC within this many standard deviations of one half says nothing, and after this many
# evaluations in a row the run is very likely broken (facebookresearch/dlrm issue 393).
CHANCE_DEVIATIONS, CHANCE_EVALUATIONS = 4.0, 3
MOST_DRAWN = 1 << 20  # rows behind the picture

_log = logging.getLogger(__name__)


class Batch(TypedDict):
    """Rows of the click log."""

    dense: Tensor
    sparse: Tensor
    label: Tensor


class DLRMModule(BenchmarkModule):
    """Train a network to predict clicks; the defaults are the closed reference at batch 55,296.

    Args:
        net: Builds the network: (B, 13) float32 and (B, 26) integers in, (B,) log-odds out.
        learning_rate: Rate that the warm-up aims at; 18 at batch 32,768, 26 at 71,680.
        warmup_steps: Steps of linear warm-up; 8000 at batch 32,768, 2500 at 71,680.
        decay_start_step: First step of the decay; 70,000 at batch 32,768, 46,821 at 71,680.
        decay_steps: Steps of the decay (power 2); 30,000 at batch 32,768, 15,406 at 71,680.

    Raises:
        ValueError: If the decay begins before the warm-up ends, or a number is negative.

    Source:
        facebookresearch/dlrm @ 6d75c84d, dlrm_s_pytorch.py; mlperf-logging rcps_dlrm.json.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("auc",)
    metric_words: ClassVar[Mapping[str, str]] = {"auc": "area under the ROC curve"}

    def __init__(
        self,
        *,
        net: Callable[[], nn.Module] = DLRM,
        learning_rate: float = 24.0,
        warmup_steps: int = 2750,
        decay_start_step: int = 49_315,
        decay_steps: int = 27_772,
    ) -> None:
        super().__init__()
        if min(learning_rate, warmup_steps, decay_start_step, decay_steps) < 0:
            raise ValueError("learning_rate, warmup_steps and the decay's steps must be at least 0")
        if decay_steps and decay_start_step < warmup_steps:
            raise ValueError(
                f"decay_start_step is {decay_start_step}, but must be at least warmup_steps "
                f"= {warmup_steps}"
            )
        self._build_net = net
        self._init_weights: Path | str | None = None
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.decay_start_step, self.decay_steps = decay_start_step, decay_steps
        self.auc = ExactAUC()
        self._evaluations_at_chance = 0
        self._examples: list[tuple[Tensor, Tensor]] = []  # scores and labels, for the picture
        self._area = 0.0

    def setup(self, stage: str) -> None:
        """Reject strategies that would shard the tables once more."""
        strategy = getattr(self.trainer, "strategy", None)
        if isinstance(strategy, FSDPStrategy | ModelParallelStrategy):
            raise ValueError(
                "--trainer.strategy: DLRM shards its tables over the devices by itself; use ddp"
            )

    def start_from(self, path: Path | str) -> None:
        """Load the weights when the network is built, as each rank keeps its share of tables."""
        self._init_weights = path
        if "net" in self._modules:
            super().start_from(path)

    def configure_model(self) -> None:
        """Build the network, now that the ranks and devices that share its tables are known."""
        if "net" in self._modules:
            return
        self.net = self._build_net()
        if self._init_weights is not None:
            super().start_from(self._init_weights)
        tables = fused_embeddings(self)
        for table in tables.values():
            rank_zero_only(print)(f"Memory plan: {table.memory_plan()}", flush=True)
        # DDP would average these; their gradients are the mean over all ranks already.
        self._ddp_params_and_buffers_to_ignore = parameters_to_ignore(self)
        self._check_table_sizes()
        self._check_shapes()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute the mean cross-entropy of a batch, a float32 scalar."""
        logits_B = self._logits(batch)
        loss = F.binary_cross_entropy_with_logits(logits_B, batch["label"].float())
        self.log_loss(loss)
        return loss

    def on_validation_epoch_start(self) -> None:
        self._examples = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score rows; a batch may be empty, as ranks that share tables take equally many."""
        scores = self._logits(batch).sigmoid()
        self.auc.update(scores, batch["label"])
        if self._trainer is not None:
            rows = max(1, len(scores)) * int(sum(self.trainer.num_val_batches))
            if batch_idx % -(-rows // MOST_DRAWN) == 0:
                self._examples.append((scores, batch["label"]))

    def write_artifacts(self, folder: Path) -> None:
        """Write ``predictions.png``: ROC curve and calibration of the last evaluation.

        Args:
            folder: The run's directory.
        """
        if not self._examples:
            return
        scores, labels = (
            torch.cat(part).float().cpu() for part in zip(*self._examples, strict=True)
        )
        if 0 < labels.sum() < len(labels):
            save_plots(folder / "predictions.png", scores.numpy(), labels.numpy(), self._area)

    def warm_up_evaluation(self) -> None:
        """Score two synthetic rows, before the clock starts.

        A compiled net is retraced for evaluation; as two is not the training batch, the trace fits
        all sizes.
        """
        batch: Any = self.trainer.datamodule.synthetic_batch()  # type: ignore[attr-defined]
        rows: Any = {key: value[:2].to(self.device) for key, value in batch.items()}
        self._logits(rows)

    def on_validation_epoch_end(self) -> None:
        """Log the exact area over all rows and ranks as ``val/auc``, equal on every rank."""
        deviation = self.auc.chance()
        area = self.auc.compute()
        self._area = float(area)
        self.auc.reset()
        self.log("val/auc", area, sync_dist=False)
        at_chance = float(area) < 0.5 + CHANCE_DEVIATIONS * deviation
        self._evaluations_at_chance = at_chance * (self._evaluations_at_chance + 1)
        # Once: every later evaluation would say the same.
        if self._evaluations_at_chance == CHANCE_EVALUATIONS and self.global_rank == 0:
            _log.warning(
                "AUC %.4f, no better than chance %d times: check labels, ids and learning_rate",
                area,
                CHANCE_EVALUATIONS,
            )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = SparseSGD(self.net.parameters(), lr=1.0)
        return scheduled(optimizer, self.step_learning_rate)

    def step_learning_rate(self, steps_done: int) -> float:
        return warmup_hold_poly(
            steps_done + 1,
            learning_rate=self.learning_rate,
            warmup_steps=self.warmup_steps,
            decay_start_step=self.decay_start_step,
            decay_steps=self.decay_steps,
        )

    @property
    def peak_learning_rate(self) -> float:
        """The plateau, which stays at the last step of the warm-up, short of the full rate."""
        return self.step_learning_rate(max(self.warmup_steps - 2, 0))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save whole tables, so that any number of ranks can read them."""
        for name, table in fused_embeddings(self).items():
            checkpoint["state_dict"][f"{name}.weight"] = table.whole_weight()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep this rank's rows of the checkpoint's tables."""
        self.configure_model()
        for name, table in fused_embeddings(self).items():
            weight = checkpoint["state_dict"][f"{name}.weight"]
            checkpoint["state_dict"][f"{name}.weight"] = table.share(weight)

    def num_parameters(self) -> int:
        """Count the parameters over all ranks, although the tables' rows are sharded."""
        shared = {id(table.weight): table for table in fused_embeddings(self).values()}
        return sum(
            shared[id(p)].num_rows * shared[id(p)].width if id(p) in shared else p.numel()
            for p in self.net.parameters()
        )

    def mllog_facts(self) -> dict[str, object]:
        """Return hyperparameters under the names of the v1.0 compliance checker."""
        return {
            "opt_name": "sgd",
            "opt_base_learning_rate": self.learning_rate,
            "sgd_opt_base_learning_rate": self.learning_rate,
            "opt_learning_rate_warmup_steps": self.warmup_steps,
            "lr_decay_start_steps": self.decay_start_step,
            "sgd_opt_learning_rate_decay_steps": self.decay_steps,
            "sgd_opt_learning_rate_decay_poly_power": 2,
        }

    def _logits(self, batch: Batch) -> Tensor:
        """Compute log-odds in fp32; the integers' logarithm is taken here, on the device."""
        return self.net(batch["dense"].float().log1p(), batch["sparse"]).float()

    def _check_table_sizes(self) -> None:
        """Check that the tables have enough rows for the data's categories."""
        data_sizes = self._data_sizes()
        tables = list(fused_embeddings(self).values())
        # In a fused table, an id that is too large would read the next table's rows.
        named = tables[0] if len(tables) == 1 else self.net
        net_sizes = getattr(named, "table_sizes", None)
        if data_sizes is None or net_sizes is None:
            return
        too_small = len(data_sizes) != len(net_sizes) or any(
            rows > known for rows, known in zip(data_sizes, net_sizes, strict=True)
        )
        if too_small:
            raise ValueError(
                f"model.net.table_sizes {list(net_sizes)} are too small for the data's categories; "
                f"pass --model.net.table_sizes {list(data_sizes)} (another list is open division)"
            )

    def _check_shapes(self) -> None:
        """Check that the network returns one log-odds per row; all ranks run it together."""
        first = next(self.net.parameters(), None)
        if first is not None:
            self.net.to(first.device)  # buffers made elsewhere, such as from numpy
        # Messages call the network by its class's name.
        kind = type(type(self.net).__name__, (_LastCategories,), {})
        check_net(kind(self.net, self._data_sizes()), input_shape=(2, NUM_DENSE), output_shape=(2,))

    def _data_sizes(self) -> Sequence[int] | None:
        """Return the categories of each column, if the data is known."""
        return getattr(getattr(self._trainer, "datamodule", None), "table_sizes", None)


class _LastCategories(nn.Module):
    """The network as a function of the numbers, with the data's last row of each table.

    An out-of-range id would crash mid-run, on a GPU with only a device-side assert.
    """

    def __init__(self, net: nn.Module, data_sizes: Sequence[int] | None) -> None:
        super().__init__()
        self.net = net
        self.last = [size - 1 for size in data_sizes or getattr(net, "table_sizes", [1] * 26)]

    def forward(self, dense_BN: Tensor) -> Tensor:
        ids_T = torch.tensor(self.last, dtype=torch.int32, device=dense_BN.device)
        return self.net(dense_BN, ids_T.expand(len(dense_BN), -1))
