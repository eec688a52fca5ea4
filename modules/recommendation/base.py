"""Train a network to predict clicks: what DLRM and DLRM-DCNv2 have in common.

Letters: B rows. A batch is a dict with ``label`` (B,) uint8, 1 for a click, and what the network
takes.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.base import BenchmarkModule
from modules.common.check_net import check_net
from modules.recommendation import NUM_DENSE
from modules.recommendation.auc import ExactAUC
from modules.recommendation.fused_embedding import fused_embeddings, parameters_to_ignore
from modules.recommendation.picture import save_plots

# An AUC within this many standard deviations of one half says nothing, and after this many
# evaluations in a row the run is very likely broken (facebookresearch/dlrm issue 393).
CHANCE_DEVIATIONS, CHANCE_EVALUATIONS = 4.0, 3
MOST_DRAWN = 1 << 20  # rows behind the picture

_log = logging.getLogger(__name__)


class ClickModule(BenchmarkModule):
    """A network of log-odds over tables that the devices share, measured by its exact AUC.

    Subclasses give the log-odds (``logits``), the optimizer and the log's facts.

    Args:
        net: Builds the network, once the ranks and devices that share its tables are known.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("auc",)
    metric_words: ClassVar[Mapping[str, str]] = {"auc": "area under the ROC curve"}

    def __init__(self, net: Callable[[], nn.Module]) -> None:
        super().__init__()
        self._build_net = net
        self._init_weights: Path | str | None = None
        self.auc = ExactAUC()
        self._evaluations_at_chance = 0
        self._examples: list[tuple[Tensor, Tensor]] = []  # scores and labels, for the picture
        self._area = 0.0

    def logits(self, batch: Any) -> Tensor:
        """Compute the log-odds of a batch: (B,) float32."""
        raise NotImplementedError

    def expand_ids(self, ids_T: Tensor) -> Tensor:
        """Return the ids that the network takes for a row with one category per column."""
        return ids_T

    def setup(self, stage: str) -> None:
        """Reject strategies that would shard the tables again, and a loss scaled per rank."""
        trainer: Any = self.trainer
        strategy = getattr(trainer, "strategy", None)
        if isinstance(strategy, FSDPStrategy | ModelParallelStrategy):
            raise ValueError(
                "--trainer.strategy: the net shards its tables over the devices by itself; use ddp"
            )
        # A rank leaves out a step if the gradient of a table of its own overflows.
        scaled = getattr(trainer, "precision", None) == "16-mixed"
        if scaled and getattr(trainer, "world_size", 1) > 1:
            raise ValueError(
                "--trainer.precision 16-mixed: ranks that share tables would leave out different "
                "steps; use bf16-mixed or 32-true"
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
        self.check_tables()
        self._check_shapes()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Compute the mean cross-entropy of a batch, a float32 scalar."""
        logits_B = self.logits(batch)
        loss = F.binary_cross_entropy_with_logits(logits_B, batch["label"].float())
        self.log_loss(loss)
        return loss

    def on_validation_epoch_start(self) -> None:
        self._examples = []

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Score rows; a batch may be empty, as ranks that share tables take equally many."""
        scores = self.logits(batch).sigmoid()
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
        self.logits(rows)

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

    def check_tables(self) -> None:
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
        check_net(kind(self.net, self._last_ids()), input_shape=(2, NUM_DENSE), output_shape=(2,))

    def _data_sizes(self) -> Sequence[int] | None:
        """Return the categories of each column, if the data is known."""
        return getattr(getattr(self._trainer, "datamodule", None), "table_sizes", None)

    def _last_ids(self) -> Tensor:
        """Return what the network takes for the last row of each table."""
        sizes = self._data_sizes() or getattr(self.net, "table_sizes", [1] * 26)
        return self.expand_ids(torch.tensor([size - 1 for size in sizes], dtype=torch.int32))


class _LastCategories(nn.Module):
    """The network as a function of the numbers, with the data's last row of each table.

    An out-of-range id would crash mid-run, on a GPU with only a device-side assert.
    """

    def __init__(self, net: nn.Module, ids_T: Tensor) -> None:
        super().__init__()
        self.net, self.ids_T = net, ids_T

    def forward(self, dense_BN: Tensor) -> Tensor:
        return self.net(dense_BN, self.ids_T.to(dense_BN.device).expand(len(dense_BN), -1))
