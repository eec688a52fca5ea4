"""DLRM on Criteo: how MLPerf Training v1.0 trains it and what it measures.

Letters: B rows. A batch is a dict: ``dense`` (B, 13) int32, ``sparse`` (B, 26) int32 and
``label`` (B,) uint8.
"""

from collections.abc import Callable
from typing import TypedDict

from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from modules.common.base import scheduled
from modules.common.schedules import warmup_hold_poly
from modules.dlrm.net import DLRM
from modules.dlrm.sparse_sgd import SparseSGD
from modules.recommendation.base import ClickModule


class Batch(TypedDict):
    """Rows of the click log."""

    dense: Tensor
    sparse: Tensor
    label: Tensor


class DLRMModule(ClickModule):
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

    def __init__(
        self,
        *,
        net: Callable[[], nn.Module] = DLRM,
        learning_rate: float = 24.0,
        warmup_steps: int = 2750,
        decay_start_step: int = 49_315,
        decay_steps: int = 27_772,
    ) -> None:
        super().__init__(net)
        if min(learning_rate, warmup_steps, decay_start_step, decay_steps) < 0:
            raise ValueError("learning_rate, warmup_steps and the decay's steps must be at least 0")
        if decay_steps and decay_start_step < warmup_steps:
            raise ValueError(
                f"decay_start_step is {decay_start_step}, but must be at least warmup_steps "
                f"= {warmup_steps}"
            )
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.decay_start_step, self.decay_steps = decay_start_step, decay_steps

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

    def logits(self, batch: Batch) -> Tensor:
        """Compute log-odds in fp32; the integers' logarithm is taken here, on the device."""
        return self.net(batch["dense"].float().log1p(), batch["sparse"]).float()
