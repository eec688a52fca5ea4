"""3D U-Net on KiTS19: how MLPerf Training v1.0 trains it and what it measures.

Shapes: B batch, D H W voxels, K foreground classes (kidney, tumour; own data's are numbered). A
batch is a dict: ``image`` (B, 1, D, H, W) float32, ``label`` (B, 1, D, H, W) uint8 and ``index``
(B,) int64.
"""

import logging
from collections.abc import Callable, Sequence
from typing import ClassVar, TypedDict

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from modules.common.base import BenchmarkModule, scheduled
from modules.common.check_net import check_net
from modules.common.schedules import warmup_multistep
from modules.unet3d.dice import CLASSES, CaseDice, dice_ce_loss, overlap_counts
from modules.unet3d.net import UNet3D
from modules.unet3d.sliding_window import crop_to_scored, plan_windows, sliding_window_logits

# The reference of round 2.0 stops a run below this as diverged; here it is only a warning.
DIVERGED_BELOW = 1e-6

_log = logging.getLogger(__name__)


class Batch(TypedDict):
    """Crops of a training step, or one whole preprocessed volume (B = 1) in evaluation."""

    image: Tensor
    label: Tensor
    index: Tensor


class UNet3DModule(BenchmarkModule):
    """Train a network to segment kidneys and tumours; the defaults are the closed reference.

    Args:
        net: Builds the network: (B, 1, D, H, W) in, one logit per class and voxel out (3, or as
            many as own data has classes, background included).
        learning_rate: Rate after the warm-up.
        initial_learning_rate: Rate that the warm-up starts from.
        warmup_epochs: Epochs of linear warm-up; the rate changes per epoch, not per step.
        decay_boundary_epochs: Epochs after which the rate drops; none in the reference.
        decay_factor: Factor of each drop.
        momentum: Nesterov momentum.
        weight_decay: L2 penalty.
        validation_input_shape: D, H, W of an evaluation window, in voxels.
        validation_overlap: Fraction of a window that the next one covers too.
        validation_batch_size: Windows per forward pass in evaluation; affects only time and memory.

    Source:
        mlcommons/training @ 9947bdf2, image_segmentation/pytorch/runtime/training.py.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("mean_dice", "dice_kidney", "dice_tumour", "loss")

    def __init__(
        self,
        *,
        net: Callable[[], nn.Module] = UNet3D,
        learning_rate: float = 0.8,
        initial_learning_rate: float = 1e-4,
        warmup_epochs: int = 200,
        decay_boundary_epochs: Sequence[int] = (),
        decay_factor: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        validation_input_shape: tuple[int, int, int] = (128, 128, 128),
        validation_overlap: float = 0.5,
        validation_batch_size: int = 1,
    ) -> None:
        super().__init__()
        self.net = net()
        self.learning_rate = learning_rate
        self.initial_learning_rate = initial_learning_rate
        self.warmup_epochs = warmup_epochs
        self.decay_boundary_epochs = tuple(decay_boundary_epochs)
        self.decay_factor = decay_factor
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.validation_input_shape = tuple(validation_input_shape)
        self.validation_overlap = validation_overlap
        self.validation_batch_size = validation_batch_size
        self.use_classes(CLASSES)

    def setup(self, stage: str) -> None:
        """Take over the data's classes; import MONAI, 1.4 s, before the clock starts."""
        import monai.inferers  # noqa: F401

        data = getattr(self.trainer, "datamodule", None)
        self.use_classes(getattr(data, "class_names", CLASSES))

    def use_classes(self, names: Sequence[str]) -> None:
        """Measure the foreground classes of these names, each logged as ``dice_NAME``."""
        self.class_names = tuple(names)
        self.cases = CaseDice(self.class_names)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = dice_ce_loss(self.net(batch["image"]), batch["label"])
        self.log_loss(loss)
        return loss

    def on_validation_epoch_start(self) -> None:
        self.cases.add_nothing()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Segment one whole volume, B = 1, each axis any size from half a window."""
        window, overlap = self.validation_input_shape, self.validation_overlap
        logits = sliding_window_logits(
            self.net,
            batch["image"],
            window=window,
            overlap=overlap,
            batch_size=self.validation_batch_size,
        )
        plan = plan_windows(batch["label"].shape[2:], window=window, overlap=overlap)
        label = crop_to_scored(batch["label"], plan)
        loss = dice_ce_loss(logits, label)
        self.cases.update(batch["index"], overlap_counts(logits, label), loss.reshape(1))

    def on_validation_epoch_end(self) -> None:
        means = self.cases.compute()
        self.cases.reset()
        # Values are already those of all ranks; averaging them again could change the last bit.
        self.log_dict({f"val/{name}": mean for name, mean in means.items()}, sync_dist=False)
        if means["mean_dice"] < DIVERGED_BELOW and self.global_rank == 0:
            _log.warning(
                "mean_dice is %.1e after epoch %d: the net finds no %s. "
                "Early in a run this may recover; later the run has diverged.",
                means["mean_dice"],
                self.current_epoch + 1,
                " and no ".join(f"class {n}" if n.isdigit() else n for n in self.class_names),
            )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Build SGD with Nesterov momentum, its rate set before each epoch."""
        optimizer = torch.optim.SGD(
            self.net.parameters(),
            lr=1.0,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=True,
        )
        return scheduled(optimizer, self.epoch_learning_rate, each="epoch")

    def epoch_learning_rate(self, epochs_done: int) -> float:
        """Return the rate of the epoch after these; the reference counts the first as epoch 1."""
        return warmup_multistep(
            epochs_done + 1,
            learning_rate=self.learning_rate,
            initial_learning_rate=self.initial_learning_rate,
            warmup_epochs=self.warmup_epochs,
            decay_boundary_epochs=self.decay_boundary_epochs,
            decay_factor=self.decay_factor,
        )

    def warm_up_evaluation(self) -> None:
        """Run the net on zeros in the batch sizes of an evaluation, before the clock starts."""
        # A compiled net is traced again for a second batch size, which then covers all others but
        # 1: so the last, smaller batch of windows costs nothing inside the clock.
        full = self.validation_batch_size
        for windows in {full, max(1, full - 1), 1}:
            self.net(torch.zeros(windows, 1, *self.validation_input_shape, device=self.device))

    def check_net(self, *, num_classes: int = len(CLASSES) + 1) -> None:
        """Raise a ValueError unless the net gives one logit per class and voxel of a window.

        Args:
            num_classes: Classes of the data, background included.
        """
        window = self.validation_input_shape
        check_net(self.net, input_shape=(1, 1, *window), output_shape=(1, num_classes, *window))

    def mllog_facts(self) -> dict[str, object]:
        """Return hyperparameters under the names of the v1.0 compliance checker."""
        return {
            "opt_name": "sgd",
            "opt_base_learning_rate": self.learning_rate,
            "opt_momentum": self.momentum,
            "opt_weight_decay": self.weight_decay,
            "opt_learning_rate_warmup_epochs": self.warmup_epochs,
            "opt_initial_learning_rate": self.initial_learning_rate,
            "opt_learning_rate_decay_boundary_epochs": list(self.decay_boundary_epochs),
            "opt_learning_rate_decay_factor": self.decay_factor,
            "validation_input_shape": list(self.validation_input_shape),
            "validation_overlap": self.validation_overlap,
        }

    def mllog_tensors(self) -> Sequence[str]:
        """Return the layer names to log as ``weights_initialization``, none for a foreign net."""
        return self.net.tensor_names() if isinstance(self.net, UNet3D) else ()
