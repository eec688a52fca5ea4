"""Base class of the benchmarks' modules: logged loss, schedule, range checks."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning as L
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from modules.common.init_weights import load_init_weights


class BenchmarkModule(L.LightningModule):
    """A network with its training step and its metrics.

    Attributes:
        metric_names: Metrics of an evaluation, each logged as ``val/<name>``.
        metric_words: Names of some of them in words, for pictures.
        compiled_calls: Methods of ``net`` that a training step calls, for ``torch.compile``; none
            if it calls ``net`` itself.
        net: The network that is trained.
        learning_rate: Rate that the schedule is built on; usually its peak.
        own_weights: Training starts from the user's weights: ``setup`` loads no others.
        draws_after_sharding: The strategy shards a network that has no memory yet, and then calls
            its ``draw_weights(seed)``: a large one need not be whole on each rank.
    """

    metric_names: ClassVar[tuple[str, ...]]
    metric_words: ClassVar[Mapping[str, str]] = {}
    compiled_calls: ClassVar[tuple[str, ...]] = ()
    net: nn.Module
    learning_rate: float
    own_weights: bool = False
    draws_after_sharding: bool = False

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the hook in progress some 40 times a step; torch would search the
        # parameters, buffers and submodules each time, a tenth of what Lightning adds to a step.
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch, at least 1; known before a loader exists.

        Raises:
            ValueError: If the data module does not tell how many samples an epoch has.
        """
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        if not hasattr(datamodule, "samples_per_epoch") or not hasattr(datamodule, "batch_size"):
            raise ValueError(
                f"{type(self).__name__} needs a data module with samples_per_epoch and batch_size: "
                "its learning rate depends on the number of steps per epoch"
            )
        per_step = self.trainer.world_size * self.trainer.accumulate_grad_batches
        return max(1, datamodule.samples_per_epoch // (datamodule.batch_size * per_step))

    @property
    def peak_learning_rate(self) -> float:
        """Highest rate that the schedule reaches, in the optimizer's units.

        Valid once the module is set up and its trainer has a data module. Parameter groups that
        learn at a multiple of the rate, such as biases, do not count.
        """
        return self.learning_rate

    def start_from(self, path: Path | str) -> None:
        """Start from the weights of a file, as many as fit; print what was loaded, in one line.

        Args:
            path: safetensors, or a state dict or checkpoint of ``torch.save``.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it holds no weights, or none that fit.
        """
        rank_zero_only(print)(f"init_weights: {load_init_weights(self.net, path)}", flush=True)
        self.own_weights = True

    def log_loss(self, loss: Tensor) -> None:
        """Log ``train/loss``, only in steps that are written: it costs more than a small step."""
        if self._trainer is None:  # in a notebook
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
    """Build what ``configure_optimizers`` returns for a rate that is a function of the count.

    Args:
        optimizer: Made with a base rate of 1.
        rate: Learning rate by finished steps or epochs; one function, or one per parameter group.
        each: What is counted.

    Returns:
        Optimizer and scheduler.
    """
    # The base rate stays 1 and the function is the rate itself. A base rate of the peak, times a
    # share of it, would round differently, and older checkpoints, which hold a base rate of 1,
    # would resume at a wrong rate. As ``initial_lr`` therefore reads 1.0 in every optimizer,
    # run.json and the loggers show ``peak_learning_rate``.
    functions: Any = rate
    scheduler = LambdaLR(optimizer, functions)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": each}}


def out_of_range(checks: Iterable[tuple[str, object, str, bool]]) -> list[str]:
    """Describe each number that breaks its rule.

    Args:
        checks: Name, value, rule in words, whether the rule holds.

    Returns:
        Lines such as ``momentum must be in [0, 1), got 1.5``.
    """
    return [f"{name} must be {rule}, got {value}" for name, value, rule, good in checks if not good]
