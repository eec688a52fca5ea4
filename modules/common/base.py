"""What the module of every benchmark has in common: the logged loss, schedules, checked numbers."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Literal

import lightning as L
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class BenchmarkModule(L.LightningModule):
    """A network, how it is trained and what is measured of it.

    Attributes:
        metric_names: What an evaluation logs, each as ``val/<name>``.
        net: The network that is trained.
    """

    metric_names: ClassVar[tuple[str, ...]]
    net: nn.Module

    def log_loss(self, loss: Tensor) -> None:
        """Log ``train/loss`` in the steps that Lightning writes; it costs more than a small step.

        Args:
            loss: Scalar. Without a trainer, as in a notebook, nothing is logged.
        """
        if self._trainer is None:
            return
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (self.global_step + 1) % every == 0:
            self.log("train/loss", loss.detach())


def scheduled(
    optimizer: Optimizer,
    rate: Callable[[int], float] | Sequence[Callable[[int], float]],
    *,
    each: Literal["step", "epoch"] = "step",
) -> OptimizerLRSchedulerConfig:
    """What ``configure_optimizers`` returns for a learning rate that is a function of the count.

    Args:
        optimizer: Made with a base rate of 1, so that the function's value is the rate itself and
            no rounding comes between.
        rate: Learning rate by finished steps or epochs; one function, or one per parameter group.
        each: What is counted.

    Returns:
        Optimizer and scheduler.
    """
    functions: Any = rate
    scheduler = LambdaLR(optimizer, functions)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": each}}


def out_of_range(checks: Iterable[tuple[str, object, str, bool]]) -> list[str]:
    """One line per number that is not what it must be.

    Args:
        checks: Name, value, rule in words, whether it holds.

    Returns:
        Lines such as ``momentum must be in [0, 1), got 1.5``.
    """
    return [f"{name} must be {rule}, got {value}" for name, value, rule, good in checks if not good]
