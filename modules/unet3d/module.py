"""3D U-Net on KiTS19: how MLPerf Training v1.0 trains it and what it measures.

Shapes: B batch, D H W voxels, K foreground classes (kidney, tumour; own data's are numbered). A
batch is a dict: ``image`` (B, 1, D, H, W) float32, ``label`` (B, 1, D, H, W) uint8 and ``index``
(B,) int64.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypedDict

import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from modules.common.base import BenchmarkModule, scheduled
from modules.common.check_net import check_net
from modules.common.schedules import warmup_multistep
from modules.unet3d.dice import (
    CLASSES,
    CaseDice,
    dice_ce_loss,
    dice_from_counts,
    overlap_counts,
)
from modules.unet3d.net import UNet3D
from modules.unet3d.picture import Slices, fullest_slices, save_slices
from modules.unet3d.sliding_window import (
    crop_to_scored,
    plan_windows,
    sliding_window_logits,
    uncrop,
)

# The reference of round 2.0 stops a run below this as diverged; here it is only a warning.
DIVERGED_BELOW = 1e-6
NUM_EXAMPLES = 3  # evaluation volumes of which a slice is drawn

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
    metric_words: ClassVar[Mapping[str, str]] = {
        "mean_dice": "mean Dice overlap of kidney and tumour"
    }

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
        self._examples: list[dict[str, Tensor]] = []  # of the last evaluation

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
        self._examples = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Segment one whole volume, B = 1, each axis any size from half a window."""
        logits = self._logits(batch["image"])
        label = crop_to_scored(batch["label"], self._plan(batch["label"]))
        loss = dice_ce_loss(logits, label)
        counts = overlap_counts(logits, label)
        self.cases.update(batch["index"], counts, loss.reshape(1))
        if batch_idx < NUM_EXAMPLES:
            self._keep_slice(batch, logits, label, counts)

    def _logits(self, image: Tensor) -> Tensor:
        return sliding_window_logits(
            self.net,
            image,
            window=self.validation_input_shape,
            overlap=self.validation_overlap,
            batch_size=self.validation_batch_size,
        )

    def _plan(self, volume: Tensor) -> Any:
        window, overlap = self.validation_input_shape, self.validation_overlap
        return plan_windows(volume.shape[2:], window=window, overlap=overlap)

    def _keep_slice(self, batch: Batch, logits: Tensor, label: Tensor, counts: Tensor) -> None:
        """Keep the slice with the most foreground for the picture, without waiting for a GPU."""
        number = (label > 0).sum((0, 1, 3, 4)).argmax().reshape(1)
        image = crop_to_scored(batch["image"], self._plan(batch["image"]))
        self._examples.append(
            {
                "image": image.index_select(2, number)[0, 0],
                "label": label.index_select(2, number)[0, 0],
                "predicted": logits.index_select(2, number)[0].max(0).indices,
                "number": number,
                "index": batch["index"],
                "counts": counts[0],
            }
        )

    def predict_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> np.ndarray:
        """Segment one preprocessed volume as in an evaluation.

        Args:
            batch: ``image`` (1, 1, D, H, W) float32.
            batch_idx: Of a loader; unused.

        Returns:
            mask_DHW, uint8 class ids; background where evaluation scores nothing.
        """
        image = batch["image"]
        predicted = self._logits(image).max(1).indices.to(torch.uint8)
        return uncrop(predicted[:, None], self._plan(image))[0, 0].cpu().numpy()

    def draw_prediction(self, path: Path, batch: Mapping[str, Any], mask: np.ndarray) -> None:
        """Draw three slices of a predicted volume.

        Args:
            path: PNG file to write.
            batch: The batch that was predicted; ``names`` are the classes'.
            mask: From ``predict_step``.
        """
        image, numbers = batch["image"][0, 0].cpu().numpy(), fullest_slices(mask, NUM_EXAMPLES)
        volume = Slices(image[numbers], None, mask[numbers], numbers, "")
        save_slices(path, [volume], batch["names"], path.stem)

    def write_artifacts(self, folder: Path) -> None:
        """Write ``predictions.png``: a slice each of the last evaluation's first volumes.

        Args:
            folder: The run's directory.
        """
        rows = []
        for kept in self._examples:
            dice = dice_from_counts(kept["counts"][None].cpu())[0].tolist()
            pairs = zip(self.class_names, dice, strict=True)
            values = (f"{name} {value:.2f}" for name, value in pairs)
            title = f" of evaluation case {int(kept['index'])}\nDice {', '.join(values)}"
            image, label, predicted = (
                kept[name].float().cpu().numpy() for name in ("image", "label", "predicted")
            )
            rows.append(Slices(image, label, predicted, kept["number"].tolist(), title))
        if rows:
            title = "Held-out CT volumes: the label, and what the network predicts"
            save_slices(folder / "predictions.png", rows, self.class_names, title)

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
