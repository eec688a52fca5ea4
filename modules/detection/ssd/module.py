"""SSD on COCO: how MLPerf Training v1.0 trains it and what it measures.

Letters: B batch, M padded ground-truth boxes. A training batch is a dict of ``image``
(B, 3, 300, 300) uint8 RGB, ``boxes`` (B, M, 4) float32 corners in fractions of the image and
``labels`` (B, M) int64, 0 where padded. An evaluation batch has ``image``, ``index`` (B,) int64 and
``size`` (B, 2), the original height and width.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from modules.common.base import out_of_range, scheduled
from modules.common.batch_norm_sync import average_running_statistics
from modules.common.schedules import warmup_then_drops
from modules.common.torch_file import check_sums
from modules.detection.base import NUM_EXAMPLES, DetectorModule
from modules.detection.coco_metric import CocoAP
from modules.detection.contract import DETECTION_KEYS, check_detector, sum_of
from modules.detection.picture import DetectionExample
from modules.detection.ssd.default_boxes import IMAGE_SIZE
from modules.detection.ssd.net import SSD300

REFERENCE_BATCH = 32  # the base rate is per this many images
WEIGHTS_FILE = "resnet34-333f7ec4.pth"


class SSDModule(DetectorModule):
    """Train a detector on images of 300 x 300 pixels; the defaults are the closed reference.

    Args:
        net: Builds the detector: images (and targets) in, losses (or detections) out.
        backbone_weights: ResNet-34 state dict of torchvision; by default ``resnet34-333f7ec4.pth``
            in the data root. Demos start from random weights.
        learning_rate: Base rate per 32 images of the global batch.
        warmup_epochs: Epochs of linear warm-up, per step; 2.619685 are 300 steps at batch 1024.
        warmup_factor: The warm-up starts at ``1 - 1 / 2**warmup_factor`` of the rate.
        decay_boundary_epochs: Completed epochs after which the rate drops to a tenth.
        momentum: Momentum of SGD.
        weight_decay: L2 penalty on every parameter.
        overlap_evaluation: Score an evaluation while the next epoch trains; the clock stops when
            the score is known. On one device; the last weights are some steps past those scored.

    Raises:
        ValueError: If an argument is out of range; one line each.

    Source:
        mlcommons/training (v1.0), single_stage_detector/ssd/train.py.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("box_ap", "box_ap50", "box_ap75")
    metric_words: ClassVar[Mapping[str, str]] = {"box_ap": "average precision of boxes"}
    title = "SSD"
    weights_source = "https://download.pytorch.org/models/resnet34-333f7ec4.pth (87 MB, BSD)"

    def __init__(
        self,
        *,
        net: Callable[[], nn.Module] = SSD300,
        backbone_weights: Path | None = None,
        learning_rate: float = 2.5e-3,
        warmup_epochs: float = 2.619685,
        warmup_factor: int = 0,
        decay_boundary_epochs: Sequence[int] = (40, 50),
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        overlap_evaluation: bool = False,
    ) -> None:
        super().__init__()
        checks = (
            ("learning_rate", learning_rate, "above 0", learning_rate > 0),
            ("warmup_epochs", warmup_epochs, "at least 0", warmup_epochs >= 0),
            ("warmup_factor", warmup_factor, "at least 0", warmup_factor >= 0),
            ("momentum", momentum, "in [0, 1)", 0 <= momentum < 1),
            ("weight_decay", weight_decay, "at least 0", weight_decay >= 0),
        )
        if lines := out_of_range(checks):
            raise ValueError("\n".join(lines))
        self.net = net()
        self.overlap_evaluation = overlap_evaluation
        self.backbone_weights = None if backbone_weights is None else Path(backbone_weights)
        self.learning_rate = learning_rate
        self.warmup_epochs, self.warmup_factor = warmup_epochs, warmup_factor
        self.decay_boundary_epochs = tuple(decay_boundary_epochs)
        self.momentum, self.weight_decay = momentum, weight_decay
        self.average_precision = CocoAP()
        self.examples: list[DetectionExample] = []

    def default_weights(self, datamodule: Any) -> Path | None:
        """Return torchvision's file in the data root, None in a demo."""
        root = getattr(datamodule, "root", None)
        return None if root is None else root / WEIGHTS_FILE

    def read_weights(self, path: Path) -> Any:
        """Read a state dict without running code that the file may contain."""
        try:
            check_sums(path)
            return torch.load(path, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # torch raises many kinds, and suggests running the file's code
            raise ValueError(
                f"{path} is truncated or not a weights file; download {self.weights_source} again"
            ) from error

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        for name in ("boxes", "labels"):  # a compiled net is not traced again for another M
            torch._dynamo.maybe_mark_dynamic(batch[name], 1)
        loss = sum_of(self.net(batch["image"], batch))
        self.log_loss(loss)
        return loss

    def on_validation_epoch_start(self) -> None:
        average_running_statistics(self.net)
        super().on_validation_epoch_start()

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Detect objects and store them in coordinates of the original images."""
        for number, image in enumerate(self.net(batch["image"])):
            index = int(batch["index"][number])
            self._add_example(batch["image"][number], image, index)
            box = _original_boxes(image["boxes"], batch["size"][number])
            self.average_precision.update(index, box, image["scores"], image["labels"])

    def warm_up_evaluation(self) -> None:
        """Detect in black images in the batch sizes of an evaluation, before the clock starts."""
        # A compiled net is traced again for a second batch size, which then covers all but 1.
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        full = getattr(datamodule, "evaluation_batch_size", 1)  # none under ``speed``
        for images in {full, full - 1, 1} - {0}:
            shape = (images, 3, IMAGE_SIZE, IMAGE_SIZE)
            self.net(torch.zeros(shape, dtype=torch.uint8, device=self.device))

    def predict_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> dict[str, Any]:
        """Detect objects in one image as in an evaluation.

        Args:
            batch: ``image`` (1, 3, 300, 300) uint8 RGB and ``size`` (1, 2), the original's height
                and width.
            batch_idx: Of a loader; unused.

        Returns:
            ``boxes`` (N, 4) x, y, width, height in pixels of the original, ``scores`` and
            ``labels`` (N,) from 1, as arrays; ``counts`` and ``masks`` are None.
        """
        (image,) = self.net(batch["image"])
        box = _original_boxes(image["boxes"], batch["size"][0])
        arrays = (box.float(), image["scores"].float(), image["labels"])
        boxes, scores, labels = (tensor.cpu().numpy() for tensor in arrays)
        return {"boxes": boxes, "scores": scores, "labels": labels, "counts": None, "masks": None}

    def _add_example(self, image_CHW: Tensor, detections: Mapping[str, Tensor], index: int) -> None:
        """Keep the first images of an evaluation for the picture."""
        if len(self.examples) < NUM_EXAMPLES:
            box, score, label = (detections[key].cpu().numpy() for key in DETECTION_KEYS)
            pixels = image_CHW.permute(1, 2, 0).cpu().numpy()
            self.examples.append(DetectionExample(pixels, box, score, label, None, index))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the running statistics of all ranks, not rank 0's alone."""
        # The checkpoint refers to these very tensors.
        average_running_statistics(self.net)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Build SGD with momentum, its rate set before each step."""
        optimizer = torch.optim.SGD(
            self.net.parameters(), lr=1.0, momentum=self.momentum, weight_decay=self.weight_decay
        )
        return scheduled(optimizer, self.step_learning_rate)

    def step_learning_rate(self, step: int) -> float:
        """Return the rate of a step, counted from 0."""
        steps_per_epoch = self.steps_per_epoch
        return warmup_then_drops(
            step,
            learning_rate=self.scaled_learning_rate(),
            warmup_steps=self.warmup_steps(),
            warmup_factor=self.warmup_factor,
            decay_boundary_steps=[epoch * steps_per_epoch for epoch in self.decay_boundary_epochs],
        )

    @property
    def peak_learning_rate(self) -> float:
        """Highest rate: that of the warm-up's last step, or of the last before an earlier drop."""
        drops = [epoch * self.steps_per_epoch for epoch in self.decay_boundary_epochs]
        ends = {step for step in (self.warmup_steps(), *drops) if step <= self.warmup_steps()}
        return max(self.step_learning_rate(max(step - 1, 0)) for step in ends)

    def scaled_learning_rate(self) -> float:
        """Return the base rate for the global batch."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        return self.learning_rate * data.global_batch_size / REFERENCE_BATCH

    def warmup_steps(self) -> int:
        """Return the steps of the warm-up, rounded down as in the reference (299 at 1024)."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        return int(self.warmup_epochs * data.num_train_samples / data.global_batch_size)

    def check_net(self, *, num_classes: int = 2) -> None:
        """Raise a ValueError unless the net detects in images of 300 x 300.

        Args:
            num_classes: Classes of the data, background included; the last one is tried.
        """
        image = torch.randint(0, 256, (2, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=torch.uint8)
        boxes = torch.tensor([[[0.1, 0.1, 0.6, 0.5]], [[0.3, 0.2, 0.9, 0.9]]])
        targets = {"boxes": boxes, "labels": torch.full((2, 1), num_classes - 1)}
        check_detector(self.net, [image], targets)

    def mllog_facts(self) -> dict[str, object]:
        """Return hyperparameters under the names of the v1.0 compliance checker."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        return {
            "opt_name": "sgd",
            "opt_base_learning_rate": self.scaled_learning_rate(),
            "opt_learning_rate_warmup_factor": self.warmup_factor,
            # The checker rejects 0, the value without warm-up.
            "opt_learning_rate_warmup_steps": max(1, self.warmup_steps()),
            "opt_learning_rate_decay_boundary_epochs": list(self.decay_boundary_epochs),
            "opt_weight_decay": self.weight_decay,
            "opt_momentum": self.momentum,
            "model_bn_span": data.batch_size,
        }


def _original_boxes(box_N4: Tensor, size: Tensor) -> Tensor:
    """Return corners of the square image as x, y, width, height in an image of ``size``."""
    # Height, width -> factors of x1, y1, x2, y2.
    box_N4 = box_N4 * (size.flip(0).repeat(2) / IMAGE_SIZE)
    return torch.cat([box_N4[:, :2], box_N4[:, 2:] - box_N4[:, :2]], 1)
