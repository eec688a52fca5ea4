"""DLRM-DCNv2 on Criteo: how MLPerf Training v3.0 to v6.0 trains it and what it measures.

Letters: B rows. A batch is a dict: ``dense`` (B, 13) float32, ``log(x + 3)`` of the integers,
``bags`` (B, 214) int32 and ``label`` (B,) uint8.
"""

from collections.abc import Callable
from typing import Any, TypedDict

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from modules.common.base import scheduled
from modules.dlrm_dcnv2.fbgemm import FbgemmTables
from modules.dlrm_dcnv2.net import BAG_SIZES, EPSILON, DCNv2
from modules.recommendation.base import ClickModule
from modules.recommendation.fused_embedding import fused_embeddings
from modules.recommendation.sparse_adagrad import SparseAdagrad


class Batch(TypedDict):
    """Rows of the click log."""

    dense: Tensor
    bags: Tensor
    label: Tensor


class DCNv2Module(ClickModule):
    """Train a network to predict clicks; the defaults are the closed reference at batch 55,296.

    Args:
        net: Builds the network: (B, 13) float32 and (B, 214) int32 in, (B,) log-odds out.
        learning_rate: Rate of all layers and tables, constant; 0.004 at batches up to 102,400,
            0.0034 at 135,168.

    Raises:
        ValueError: If the rate is negative.

    Source:
        mlcommons/training @ aa344c7, recommendation_v2/torchrec_dlrm; mlperf-logging
        rcps_dlrm_dcnv2.json.
    """

    def __init__(
        self, *, net: Callable[[], nn.Module] = DCNv2, learning_rate: float = 0.004
    ) -> None:
        super().__init__(net)
        if learning_rate < 0:
            raise ValueError(f"learning_rate must be at least 0, got {learning_rate}")
        self.learning_rate = learning_rate

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        for tables in self.modules():
            if isinstance(tables, FbgemmTables):
                tables.set_learning_rate(self.learning_rate)
        optimizer = SparseAdagrad(self.net.parameters(), lr=1.0, eps=EPSILON)
        return scheduled(optimizer, lambda steps_done: self.learning_rate)

    def logits(self, batch: Batch) -> Tensor:
        """Compute log-odds in fp32."""
        return self.net(batch["dense"], batch["bags"]).float()

    def expand_ids(self, ids_T: Tensor) -> Tensor:
        """Repeat each table's id as often as its bag is long."""
        bag_sizes = self._data_bags() or getattr(self.net, "bag_sizes", None) or BAG_SIZES
        return ids_T.repeat_interleave(torch.tensor(bag_sizes))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save whole tables and their sums, so that any number of ranks can read them."""
        super().on_save_checkpoint(checkpoint)
        for states, number, table in self._shared_states(checkpoint):
            whole = table.whole(states[number]["sum"])
            states[number] = {**states[number], "sum": whole}  # the old dict is the optimizer's own

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep this rank's rows of the checkpoint's tables and sums."""
        super().on_load_checkpoint(checkpoint)
        for states, number, table in self._shared_states(checkpoint):
            states[number]["sum"] = table.share(states[number]["sum"])

    def check_tables(self) -> None:
        """Check that tables and bags are those of the data, and that the kernels fit the run."""
        self._check_kernels()
        super().check_tables()
        wanted, got = self._data_bags(), getattr(self.net, "bag_sizes", None)
        if wanted and got and tuple(wanted) != tuple(got):
            raise ValueError(
                f"model.net.bag_sizes {list(got)} are not those of the data; leave the argument "
                f"out, or pass --model.net.bag_sizes {list(wanted)}"
            )

    def mllog_facts(self) -> dict[str, object]:
        """Return hyperparameters under the names of the compliance checker."""
        return {
            "opt_name": "adagrad",
            "opt_base_learning_rate": self.learning_rate,
            "opt_adagrad_learning_rate_decay": 0,
            "opt_weight_decay": 0,
            "opt_adagrad_initial_accumulator_value": 0,
            "opt_adagrad_epsilon": EPSILON,
            "opt_learning_rate_warmup_steps": 0,
            "opt_learning_rate_decay_start_step": 0,
            "opt_learning_rate_decay_steps": 0,
        }

    def _check_kernels(self) -> None:
        """Reject what FBGEMM's kernels cannot do, as they step inside each backward pass."""
        if not any(isinstance(module, FbgemmTables) for module in self.modules()):
            return
        trainer: Any = self._trainer
        wrong = {
            "several devices": getattr(trainer, "world_size", 1) > 1,
            "--trainer.accumulate_grad_batches": getattr(trainer, "accumulate_grad_batches", 1) > 1,
            "--trainer.gradient_clip_val": getattr(trainer, "gradient_clip_val", None) is not None,
            "a scaled loss (--trainer.precision 16-mixed)": (
                getattr(trainer, "precision", None) == "16-mixed"
            ),
        }
        if found := [what for what, is_so in wrong.items() if is_so]:
            raise ValueError(
                "--model.net.kernels fbgemm steps its tables in each backward pass of one device "
                f"and cannot have {', '.join(found)}; leave that out, or take kernels torch"
            )

    def _shared_states(self, checkpoint: dict[str, Any]) -> list[tuple[dict[int, Any], int, Any]]:
        """Return each shared table with a checkpoint's optimizer states and its number in them."""
        tables = {id(table.weight): table for table in fused_embeddings(self).values()}
        shared = [tables.get(id(weight)) for weight in self.net.parameters()]
        return [
            (optimizer["state"], number, table)
            for optimizer in checkpoint.get("optimizer_states", [])
            for number, table in enumerate(shared)
            if table is not None and number in optimizer["state"]
        ]

    def _data_bags(self) -> Any:
        return getattr(getattr(self._trainer, "datamodule", None), "bag_sizes", None)
