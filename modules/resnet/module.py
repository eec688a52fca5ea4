"""ResNet-50 on ImageNet: how MLPerf Training v1.0 trains it and what it measures.

Shapes: B batch, H W pixels, K classes. A batch is a dict: ``image`` (B, 3, H, W) uint8 RGB,
``label`` (B,) int64 in ``[0, K)`` and ``index`` (B,) int64.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypedDict

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torchmetrics import Metric

from modules.common.base import BenchmarkModule, out_of_range, scheduled
from modules.common.batch_norm_sync import average_running_statistics
from modules.common.check_net import check_net
from modules.common.schedules import warmup_polynomial
from modules.resnet.lars import LARS, split_parameters
from modules.resnet.net import ResNet
from modules.resnet.picture import ClassifiedImage, save_images

# Means of the reference, in the order red, green, blue; it divides by no deviation.
IMAGE_MEAN = (123.68, 116.78, 103.94)
# Fixed in the closed division; the log's checker accepts no other values.
END_LEARNING_RATE, POWER = 1e-4, 2
NUM_EXAMPLES = 24  # evaluation images in the picture
NUM_PREDICTED = 5  # classes that ``predict_step`` returns


class Batch(TypedDict):
    """Images of a training or evaluation step, not yet normalised."""

    image: Tensor
    label: Tensor
    index: Tensor


class Top1Accuracy(Metric):
    """Fraction of images whose highest logit is the label's, from integer counts of all ranks."""

    full_state_update = False
    correct: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        for state in ("correct", "total"):
            self.add_state(state, default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits_BK: Tensor, label_B: Tensor) -> None:
        self.correct += (logits_BK.argmax(1) == label_B).sum()
        self.total += label_B.numel()

    def compute(self) -> Tensor:
        """Return a float64 scalar on the CPU in ``[0, 1]``, NaN before any image."""
        return self.correct.cpu().double() / self.total.cpu()


class ResNetModule(BenchmarkModule):
    """Train an image classifier; the defaults are the reference convergence point at batch 3264.

    Args:
        net: Builds the network: (B, 3, H, W) float in, one logit per class out.
        optimizer: ``lars``, or ``sgd`` with momentum; the closed division allows both.
        learning_rate: Rate at the end of the warm-up, for the global batch as it is.
        warmup_epochs: Epochs of linear warm-up from 0, set per step; may be a fraction.
        train_epochs: Epochs until the rate has fallen to 1e-4; training may continue at that rate.
        momentum: Momentum; the rules' table has 0.9 up to a global batch of 32k.
        weight_decay: L2 penalty; 1e-4 times a power of two in the closed division. LARS adds it
            times w to the gradient of kernels; SGD adds twice that, as the reference does, and to
            biases too.
        label_smoothing: Fraction of the target that is spread over all classes; 0 or 0.1.

    Raises:
        ValueError: If a number is out of range; one line each.

    Source:
        mlcommons/training, image_classification/tensorflow2 (v1.0), and mlperf_logging,
        rcp_checker/training_1.0.0/rcps_resnet.json (batch 3264).
    """

    metric_names: ClassVar[tuple[str, ...]] = ("accuracy",)
    metric_words: ClassVar[Mapping[str, str]] = {"accuracy": "top-1 accuracy"}
    image_mean: Tensor

    def __init__(
        self,
        *,
        net: Callable[[], nn.Module] = ResNet,
        optimizer: Literal["lars", "sgd"] = "lars",
        learning_rate: float = 10.5,
        warmup_epochs: float = 2,
        train_epochs: float = 37,
        momentum: float = 0.9,
        weight_decay: float = 5e-5,
        label_smoothing: float = 0.1,
    ) -> None:
        super().__init__()
        _check_ranges(
            learning_rate, warmup_epochs, train_epochs, momentum, weight_decay, label_smoothing
        )
        self.net = net()
        self.optimizer: Literal["lars", "sgd"] = optimizer
        self.learning_rate = learning_rate
        self.warmup_epochs, self.train_epochs = warmup_epochs, train_epochs
        self.momentum, self.weight_decay = momentum, weight_decay
        self.label_smoothing = label_smoothing
        self.accuracy = Top1Accuracy()
        self._examples: list[tuple[Tensor, Tensor, Tensor]] = []  # image, label, logits
        mean = torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1)
        self.register_buffer("image_mean", mean, persistent=False)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute the mean cross-entropy of a batch, a float32 scalar."""
        logits_BK = self.net(self.normalise(batch["image"])).float()
        loss = F.cross_entropy(logits_BK, batch["label"], label_smoothing=self.label_smoothing)
        self.log_loss(loss)
        return loss

    def normalise(self, image_BCHW: Tensor) -> Tensor:
        """Subtract the reference's channel means from uint8 RGB, on the device; keep the layout."""
        return image_BCHW.float().sub_(self.image_mean)

    def on_validation_epoch_start(self) -> None:
        """Evaluate with the mean of all ranks' running statistics."""
        average_running_statistics(self.net)
        self._examples = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits_BK = self.net(self.normalise(batch["image"]))
        self.accuracy.update(logits_BK, batch["label"])
        self._keep_images(batch, logits_BK, batch_idx)

    def _keep_images(self, batch: Batch, logits_BK: Tensor, batch_idx: int) -> None:
        """Keep images for the picture, spread over the evaluation set, as that may be sorted."""
        if self._trainer is None:  # in a notebook
            return
        batches = int(sum(self.trainer.num_val_batches))
        wanted = -(-NUM_EXAMPLES // batches)
        if len(self._examples) < NUM_EXAMPLES and batch_idx % -(-batches // NUM_EXAMPLES) == 0:
            # Multiples of the golden ratio: an even step might meet only some of the classes.
            rows = {int(k * 0.618034 % 1 * len(logits_BK)) for k in range(wanted)}
            for row in sorted(rows):
                # Copies, as a row of a batch would keep all of it in memory.
                kept = (batch["image"][row], batch["label"][row], logits_BK[row])
                self._examples.append(tuple(tensor.clone() for tensor in kept))  # type: ignore[arg-type]

    def predict_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> list[tuple[int, float]]:
        """Classify one image as in an evaluation.

        Args:
            batch: ``image`` (1, 3, S, S) uint8 RGB.
            batch_idx: Of a loader; unused.

        Returns:
            Number and probability of the most probable classes, at most five.
        """
        logits_1K = self.net(self.normalise(batch["image"])).float()
        top = logits_1K.softmax(1)[0].topk(min(NUM_PREDICTED, logits_1K.shape[1]))
        return list(zip(top.indices.tolist(), top.values.tolist(), strict=True))

    def write_artifacts(self, folder: Path) -> None:
        """Write ``predictions.png``: images of the last evaluation with both classes.

        Args:
            folder: The run's directory.
        """
        examples = [
            ClassifiedImage(
                image.permute(1, 2, 0).cpu().numpy(),
                int(label),
                int(logits.argmax()),
                float(logits.float().softmax(0).max()),
            )
            for image, label, logits in self._examples[:NUM_EXAMPLES]
        ]
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        names: list[str] = getattr(datamodule, "class_names", list)()
        if examples:
            save_images(folder / "predictions.png", examples, names)

    def warm_up_evaluation(self) -> None:
        """Classify two synthetic images, before the clock starts.

        A compiled net is retraced for evaluation; as two is not the training batch, the trace fits
        all sizes but one, including that of the last, smaller batch.
        """
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.net(self.normalise(datamodule.synthetic_batch()["image"][:2].to(self.device)))

    def on_validation_epoch_end(self) -> None:
        """Log ``val/accuracy`` over all images, equal on every rank."""
        accuracy = self.accuracy.compute()
        self.accuracy.reset()
        # The counts already cover all ranks; averaging could change the last bit.
        self.log("val/accuracy", accuracy, sync_dist=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the mean of all ranks' running statistics, not rank 0's alone."""
        average_running_statistics(self.net)  # the checkpoint has these very tensors

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        kernels, biases, norms = split_parameters(self.net)
        lars = self.optimizer == "lars"
        decayed = kernels if lars else kernels + biases
        plain = norms + biases if lars else norms
        # The reference's SGD puts decay * sum(w^2) into the loss, whose gradient is 2 decay w.
        decay = self.weight_decay if lars else 2 * self.weight_decay
        groups = [
            {"params": decayed, "weight_decay": decay, "adapt": lars},
            {"params": plain, "weight_decay": 0.0, "adapt": False},
        ]
        groups = [group for group in groups if group["params"]]
        optimizer = LARS(groups, lr=1.0, momentum=self.momentum)
        steps_per_epoch = self.steps_per_epoch
        return scheduled(optimizer, lambda step: self.step_learning_rate(step, steps_per_epoch))

    def step_learning_rate(self, step: int, steps_per_epoch: int) -> float:
        return warmup_polynomial(
            step,
            learning_rate=self.learning_rate,
            end_learning_rate=END_LEARNING_RATE,
            warmup_steps=self.warmup_epochs * steps_per_epoch,
            total_steps=self.train_epochs * steps_per_epoch,
            power=POWER,
        )

    @property
    def peak_learning_rate(self) -> float:
        """Rate at the end of the warm-up, which need not end on a whole step."""
        steps_per_epoch = self.steps_per_epoch
        last = int(self.warmup_epochs * steps_per_epoch)
        return max(self.step_learning_rate(step, steps_per_epoch) for step in (last, last + 1))

    def check_net(self, *, image_size: int = 224, num_classes: int = 1000) -> None:
        """Raise a ValueError unless the network returns one logit per class.

        Args:
            image_size: Height and width of the images.
            num_classes: Classes of the data.
        """
        shape = (1, 3, image_size, image_size)
        check_net(self.net, input_shape=shape, output_shape=(1, num_classes))

    def mllog_facts(self) -> dict[str, object]:
        """Return hyperparameters under the names of the v1.0 compliance checker."""
        prefix = f"{self.optimizer}_opt"
        steps = self.steps_per_epoch
        decay_steps = round(self.train_epochs * steps) - round(self.warmup_epochs * steps) + 1
        warmup = "opt_learning_rate_warmup_epochs"
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        facts: dict[str, object] = {
            "opt_name": self.optimizer,
            "model_bn_span": datamodule.batch_size * self._ranks_per_statistic(),
            f"{prefix}_base_learning_rate": self.learning_rate,
            f"{prefix}_end_learning_rate": END_LEARNING_RATE,
            f"{prefix}_learning_rate_decay_poly_power": POWER,
            f"{prefix}_learning_rate_decay_steps": decay_steps,
            f"{prefix}_momentum": self.momentum,
            f"{prefix}_weight_decay": self.weight_decay,
            # The rules leave the prefix out for SGD only.
            f"lars_{warmup}" if self.optimizer == "lars" else warmup: self.warmup_epochs,
        }
        # Logged like the reference, although its code replaces a zero by 1e-7.
        return facts | ({"lars_epsilon": 0.0} if self.optimizer == "lars" else {})

    def _ranks_per_statistic(self) -> int:
        """Return all ranks if Lightning has made batch norms synchronous, else 1."""
        synchronous = any(isinstance(m, nn.SyncBatchNorm) for m in self.net.modules())
        return self.trainer.world_size if synchronous else 1


def _check_ranges(
    learning_rate: float,
    warmup_epochs: float,
    train_epochs: float,
    momentum: float,
    weight_decay: float,
    label_smoothing: float,
) -> None:
    checks = (
        ("learning_rate", learning_rate, "above 0", learning_rate > 0),
        ("train_epochs", train_epochs, "above 0 and finite", 0 < train_epochs < math.inf),
        ("warmup_epochs", warmup_epochs, "in [0, train_epochs)", 0 <= warmup_epochs < train_epochs),
        ("momentum", momentum, "in [0, 1)", 0 <= momentum < 1),
        ("weight_decay", weight_decay, "at least 0", weight_decay >= 0),
        ("label_smoothing", label_smoothing, "in [0, 1)", 0 <= label_smoothing < 1),
    )
    if problems := out_of_range(checks):
        raise ValueError("\n".join(problems))
