"""Mask R-CNN on COCO: how MLPerf Training v1.0 trains it and what it measures.

Letters: B batch, G objects of an image, N detections. A training batch is a dict of ``image``
(B, 3, H, W) uint8 RGB, padded, ``size`` (B, 2) real height and width, and lists over the images:
``boxes`` (G, 4) inclusive corners in pixels, ``labels`` (G,) from 1, ``polygons``. An evaluation
batch has ``image``, ``size``, ``index`` (B,) and ``original`` (B, 2), height and width in the file.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from modules.common.base import out_of_range, scheduled
from modules.common.schedules import absolute_warmup_drops
from modules.detection.base import NUM_EXAMPLES, DetectorModule
from modules.detection.coco_metric import CocoAP
from modules.detection.contract import DETECTION_KEYS, check_detector, sum_of
from modules.detection.maskrcnn.backbone import read_blobs
from modules.detection.maskrcnn.instance_masks import place_mask, run_lengths, whole_mask
from modules.detection.maskrcnn.net import MaskRCNN
from modules.detection.picture import DetectionExample

DECAY_FACTOR = 0.1
BIAS_RATE = 2.0  # biases learn twice as fast, without weight decay
WEIGHTS_FILE = "R-50.pkl"


class MaskRCNNModule(DetectorModule):
    """Train boxes and masks together; the defaults are the closed reference at batch 16.

    Args:
        net: Builds the detector: images, sizes (and targets) in, losses (or detections) out.
        backbone_weights: Caffe2 pickle of the backbone; by default ``R-50.pkl`` in the data root.
        learning_rate: Base rate; 0.02 times an integer in the closed division.
        warmup_steps: Steps of the warm-up.
        warmup_deficit: Learning rate subtracted per remaining step of the warm-up, from biases the
            same as from weights: so do all published convergence points. By default weights start
            at 1/3 of their rate and biases at 2/3 of theirs, where the reference's own batch-16
            configuration, which no point uses, has 1/3 for both.
        decay_steps: Steps at which the rate drops to a tenth.
        momentum: Momentum of SGD.
        weight_decay: L2 penalty on all parameters but biases.
        overlap_evaluation: Score an evaluation while the next epoch trains; the clock stops when
            the score is known. On one device; the last weights are some steps past those scored.

    Raises:
        ValueError: If an argument is out of range; one line each.

    Source:
        mlcommons/training (v1.0), object_detection/pytorch/tools/train_mlperf.py.
    """

    metric_names: ClassVar[tuple[str, ...]] = (
        "box_ap", "box_ap50", "box_ap75", "mask_ap", "mask_ap50", "mask_ap75",
    )  # fmt: skip
    metric_words: ClassVar[Mapping[str, str]] = {
        "box_ap": "average precision of boxes",
        "mask_ap": "of masks",
    }
    title = "Mask R-CNN"
    weights_source = (
        "https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained/MSRA/R-50.pkl (103 MB)"
    )

    def __init__(
        self,
        *,
        net: Callable[[], nn.Module] = MaskRCNN,
        backbone_weights: Path | None = None,
        learning_rate: float = 0.02,
        warmup_steps: int = 500,
        warmup_deficit: float = 2.6667e-5,
        decay_steps: Sequence[int] = (60_000, 80_000),
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        overlap_evaluation: bool = False,
    ) -> None:
        super().__init__()
        checks = (
            ("learning_rate", learning_rate, "above 0", learning_rate > 0),
            ("warmup_steps", warmup_steps, "at least 0", warmup_steps >= 0),
            ("warmup_deficit", warmup_deficit, "above 0", warmup_deficit > 0),
            ("momentum", momentum, "in [0, 1)", 0 <= momentum < 1),
            ("weight_decay", weight_decay, "at least 0", weight_decay >= 0),
        )
        lines = out_of_range(checks)
        # The published point at batch 48 starts its weights, but not its biases, below 0.
        if warmup_steps * warmup_deficit > BIAS_RATE * learning_rate * (1 + 1e-6):
            lines.append(
                f"warmup_steps {warmup_steps} x warmup_deficit {warmup_deficit} exceeds twice the "
                f"learning_rate {learning_rate}: even the biases would start below 0"
            )
        if lines:
            raise ValueError("\n".join(lines))
        self.net = net()
        self.overlap_evaluation = overlap_evaluation
        self.backbone_weights = None if backbone_weights is None else Path(backbone_weights)
        self.learning_rate = learning_rate
        self.warmup_steps, self.warmup_deficit = warmup_steps, warmup_deficit
        self.decay_steps = tuple(decay_steps)
        self.momentum, self.weight_decay = momentum, weight_decay
        self.average_precision = CocoAP(masks=True)
        self.examples: list[DetectionExample] = []

    def setup(self, stage: str) -> None:
        """Prepare the backbone, and tell the net how many images a full batch has."""
        super().setup(stage)
        if stage == "fit" and isinstance(self.net, MaskRCNN):
            self.net.batch_size = getattr(self.trainer.datamodule, "batch_size", None)  # type: ignore[attr-defined]

    def default_weights(self, datamodule: Any) -> Path | None:
        """Return Detectron's file in the data directory; the demo writes one as well."""
        folder = getattr(datamodule, "folder", None)
        return None if folder is None else folder / WEIGHTS_FILE

    def read_weights(self, path: Path) -> Any:
        return read_blobs(path)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        loss = sum_of(self.net(batch["image"], batch["size"], batch))
        self.log_loss(loss)
        return loss

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Detect objects and store boxes and masks in coordinates of the original images."""
        for number, image in enumerate(self.net(batch["image"], batch["size"])):
            original, size = batch["original"][number].tolist(), batch["size"][number].tolist()
            box, masks = _in_original(image, size, original)
            index = int(batch["index"][number])
            self.average_precision.update(
                index, _with_sides(box), image["scores"], image["labels"], masks
            )
            self._add_example(batch["image"][number], size, original, box, image, masks, index)

    def predict_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> dict[str, Any]:
        """Detect and outline objects in one image as in an evaluation.

        Args:
            batch: ``image`` (1, 3, H, W) uint8 RGB, padded, ``size`` (1, 2) without padding and
                ``original`` (1, 2), height and width in the file.
            batch_idx: Of a loader; unused.

        Returns:
            ``boxes`` (N, 4) x, y, width, height in pixels of the original, ``scores`` and
            ``labels`` (N,) from 1, ``masks`` (N, H, W) bool as arrays, and ``counts``, the masks as
            COCO's run lengths.
        """
        (image,) = self.net(batch["image"], batch["size"])
        original, size = batch["original"][0].tolist(), batch["size"][0].tolist()
        box, counts = _in_original(image, size, original)
        arrays = (_with_sides(box), image["scores"].float(), image["labels"])
        boxes, scores, labels = (tensor.cpu().numpy() for tensor in arrays)
        masks = np.array([whole_mask(mask, *original) for mask in counts], dtype=bool)
        return {
            "boxes": boxes, "scores": scores, "labels": labels, "counts": counts, "masks": masks
        }  # fmt: skip

    def _add_example(
        self,
        image_CHW: Tensor,
        size: Sequence[int],
        original: Sequence[int],
        box: Tensor,
        detections: Mapping[str, Tensor],
        counts: Sequence[bytes],
        index: int,
    ) -> None:
        """Keep the first images of an evaluation for the picture."""
        if len(self.examples) >= NUM_EXAMPLES:
            return
        real = image_CHW[None, :, : size[0], : size[1]].float().cpu()
        pixels = nn.functional.interpolate(real, tuple(original))[0].permute(1, 2, 0)
        masks = np.array([whole_mask(mask, *original) for mask in counts], dtype=bool)
        score, label = (detections[key].cpu().numpy() for key in ("scores", "labels"))
        image = pixels.byte().numpy()
        corners = box.cpu().numpy()
        self.examples.append(DetectionExample(image, corners, score, label, masks, index))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Build SGD with momentum; biases have twice the rate and no weight decay."""
        trained = [(name, p) for name, p in self.net.named_parameters() if p.requires_grad]
        groups = [
            {
                "params": [p for name, p in trained if ("bias" in name) == is_bias],
                "weight_decay": 0.0 if is_bias else self.weight_decay,
                "factor": BIAS_RATE if is_bias else 1.0,
            }
            for is_bias in (False, True)
        ]
        groups = [group for group in groups if group["params"]]
        optimizer = torch.optim.SGD(groups, lr=1.0, momentum=self.momentum)
        rates: Any = [
            lambda step, factor=group["factor"]: self.step_learning_rate(step, factor)
            for group in groups
        ]
        return scheduled(optimizer, rates)

    def step_learning_rate(self, step: int, factor: float = 1.0) -> float:
        """Return a step's rate; the factor multiplies a group's base rate, not the deficit."""
        # The reference counts the first step as 1.
        return absolute_warmup_drops(
            step + 1,
            learning_rate=factor * self.learning_rate,
            warmup_steps=self.warmup_steps,
            warmup_deficit=self.warmup_deficit,
            decay_steps=self.decay_steps,
            decay_factor=DECAY_FACTOR,
        )

    def check_net(self, *, num_classes: int = 2) -> None:
        """Raise a ValueError unless the net gives losses, boxes and masks.

        Args:
            num_classes: Classes of the data, background included; the last one is tried.
        """
        image = torch.randint(0, 256, (1, 3, 128, 128), dtype=torch.uint8)
        outline = np.array([[20, 20], [90, 20], [90, 100], [20, 100]], dtype=np.float32)
        targets = {
            "boxes": [torch.tensor([[20.0, 20.0, 90.0, 100.0]])],
            "labels": [torch.tensor([num_classes - 1])],
            "polygons": [[[outline]]],
        }
        inputs = [image, torch.tensor([[128, 128]])]
        check_detector(self.net, inputs, targets, keys=(*DETECTION_KEYS, "masks"))

    def mllog_facts(self) -> dict[str, object]:
        """Return hyperparameters under the names of the v1.0 compliance checker."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        candidates = getattr(self.net, "image_candidates", None)
        facts: dict[str, object] = {
            "opt_name": "sgd",
            "opt_base_learning_rate": self.learning_rate,
            "opt_learning_rate_warmup_steps": self.warmup_steps,
            "opt_learning_rate_warmup_factor": self.warmup_deficit,
            "opt_learning_rate_decay_factor": DECAY_FACTOR,
            "opt_learning_rate_decay_steps": list(self.decay_steps),
            "opt_momentum": self.momentum,
            "opt_weight_decay": self.weight_decay,
        }
        if candidates is not None:
            facts["num_image_candidates"] = candidates(data.batch_size)
        return facts


def _in_original(
    detections: Mapping[str, Tensor], size: Sequence[int], original: Sequence[int]
) -> tuple[Tensor, list[bytes]]:
    """Return inclusive corners and run lengths of masks, both at the image's original size."""
    ratio = [original[1] / size[1], original[0] / size[0]] * 2
    box = detections["boxes"].float() * detections["boxes"].new_tensor(ratio)
    masks = detections["masks"].float().cpu()
    return box, [
        run_lengths(place_mask(mask, corners, *original), *original)
        for mask, corners in zip(masks, box.tolist(), strict=True)
    ]


def _with_sides(box_N4: Tensor) -> Tensor:
    """Return inclusive corners as x, y, width, height."""
    return torch.cat([box_N4[:, :2], box_N4[:, 2:] - box_N4[:, :2] + 1], 1)
