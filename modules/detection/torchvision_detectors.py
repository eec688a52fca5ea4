"""torchvision's detectors adapted to our contract, for the open division.

    --model.net modules.detection.torchvision_detectors.TorchvisionSSD
    --model.net modules.detection.torchvision_detectors.TorchvisionMaskRCNN

They normalise and match in their own way; data, target and clock stay those of the benchmark.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import detection

from modules.detection.maskrcnn.instance_masks import rasterise
from modules.detection.ssd.default_boxes import IMAGE_SIZE


class TorchvisionSSD(nn.Module):
    """A box detector of torchvision on SSD's images and targets.

    Args:
        model: Builder in ``torchvision.models.detection``.
        num_classes: Classes, background included.

    Raises:
        ValueError: If there is no such builder.
    """

    def __init__(self, model: str = "ssdlite320_mobilenet_v3_large", num_classes: int = 81) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.detector = _build(model, num_classes)

    def forward(
        self, image_BCHW: Tensor, targets: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Return torchvision's losses; without targets boxes in pixels, scores and labels."""
        images = list(image_BCHW / 255)
        if targets is None:
            return self.detector(images)
        listed = []
        for box, label in zip(targets["boxes"], targets["labels"], strict=True):
            real = label > 0
            listed.append({"boxes": box[real] * IMAGE_SIZE, "labels": label[real]})
        return self.detector(images, listed)


class TorchvisionMaskRCNN(nn.Module):
    """A mask detector of torchvision on Mask R-CNN's images and targets.

    Its boxes end where the next pixel begins, ours in the last pixel; the adapter moves the far
    corners by one on the way in and back on the way out.

    Args:
        model: Builder in ``torchvision.models.detection``.
        num_classes: Classes, background included.

    Raises:
        ValueError: If there is no such builder.
    """

    def __init__(self, model: str = "maskrcnn_resnet50_fpn_v2", num_classes: int = 81) -> None:
        super().__init__()
        self.num_classes = num_classes
        # The data module has resized the images already.
        self.detector = _build(model, num_classes, _skip_resize=True)
        # Masks stay small: pasting them is the evaluation's work.
        self.detector.transform.postprocess = _unchanged  # type: ignore[union-attr, assignment]

    def forward(
        self,
        image_BCHW: Tensor,
        size_B2: Tensor,
        targets: Mapping[str, Any] | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Return torchvision's losses; without targets also masks (N, 28, 28) per image."""
        sizes = size_B2.tolist()
        images = [
            image[:, :height, :width] / 255
            for image, (height, width) in zip(image_BCHW, sizes, strict=True)
        ]
        if targets is None:
            return [
                {**one, "boxes": one["boxes"] - _far(one["boxes"]), "masks": one["masks"][:, 0]}
                for one in self.detector(images)
            ]
        listed = [
            {
                "boxes": box + _far(box),
                "labels": label,
                "masks": _whole_masks(polygons, *size).to(box.device),
            }
            for box, label, polygons, size in zip(
                targets["boxes"], targets["labels"], targets["polygons"], sizes, strict=True
            )
        ]
        return self.detector(images, listed)


def _build(model: str, num_classes: int, **settings: Any) -> nn.Module:
    """Build a detector with random weights."""
    builder = getattr(detection, model, None)
    if builder is None:
        known = [name for name in dir(detection) if name.islower() and "_" in name]
        raise ValueError(f"torchvision has no detector {model!r}; it has {', '.join(known)}")
    return builder(weights=None, weights_backbone=None, num_classes=num_classes, **settings)


def _far(box_N4: Tensor) -> Tensor:
    """Return one pixel for the far corner."""
    return box_N4.new_tensor([0, 0, 1, 1])


def _whole_masks(polygons: Sequence[Any], height: int, width: int) -> Tensor:
    """Draw all objects' masks at the size of the image, (G, H, W) uint8."""
    masks = [rasterise(rings, height, width) for rings in polygons]
    return torch.from_numpy(np.array(masks, dtype=np.uint8).reshape(-1, height, width))


def _unchanged(result: Any, *_: Any) -> Any:
    return result
