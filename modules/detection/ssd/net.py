"""SSD with a ResNet-34 backbone cut after its third stage, for 300 x 300 pixels.

Letters: B batch, A = 8732 default boxes, K classes with background, M padded ground-truth boxes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from modules.detection.ssd.default_boxes import BOXES_PER_CELL, IMAGE_SIZE, default_boxes
from modules.detection.ssd.heads import ssd_detections, ssd_loss

PIXEL_MEAN, PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TruncatedResNet34(nn.Module):
    """ResNet-34 without its last stage, its third stage at stride 1: 300 pixels become 38 cells."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks=3, stride=1)
        self.layer2 = _stage(width, 2 * width, blocks=4, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, blocks=6, stride=1)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(image_BCHW)))
        x = nn.functional.max_pool2d(x, 3, stride=2, padding=1)
        return self.layer3(self.layer2(self.layer1(x)))


class SSD300(nn.Module):
    """Detector on six feature maps; with targets it gives its losses, without them boxes.

    Args:
        num_classes: Classes, background included.
        width: Channels of the backbone's first stage; everything else scales with it.

    Source:
        mlcommons/training (v1.0), single_stage_detector/ssd/{base_model,ssd300}.py.
        19,972,534 parameters.
    """

    defaults: Tensor
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, num_classes: int = 81, width: int = 64) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = TruncatedResNet34(width)
        channels = [4 * width, 8 * width, 8 * width, 4 * width, 4 * width, 4 * width]
        inner = [4 * width, 4 * width, 2 * width, 2 * width, 2 * width]
        strided = [True, True, True, False, False]
        self.extras = nn.ModuleList(
            _extra(*sizes) for sizes in zip(channels, inner, channels[1:], strided, strict=False)
        )
        heads = list(zip(channels, BOXES_PER_CELL, strict=True))
        self.location = nn.ModuleList(nn.Conv2d(c, 4 * n, 3, padding=1) for c, n in heads)
        self.confidence = nn.ModuleList(
            nn.Conv2d(c, num_classes * n, 3, padding=1) for c, n in heads
        )
        for part in (self.extras, self.location, self.confidence):
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.xavier_uniform_(module.weight)
        self.register_buffer("defaults", default_boxes(), persistent=False)
        for name, value in (("pixel_mean", PIXEL_MEAN), ("pixel_std", PIXEL_STD)):
            self.register_buffer(name, torch.tensor(value).view(3, 1, 1), persistent=False)

    def forward(
        self, image_BCHW: Tensor, targets: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Compute losses or detections.

        Args:
            image_BCHW: (B, 3, 300, 300) uint8 RGB.
            targets: ``boxes`` (B, M, 4) corners in fractions of the image and ``labels`` (B, M)
                int64, 0 where padded; None to detect.

        Returns:
            Scalars ``box`` and ``class``; or per image ``boxes`` in pixels of the input, ``scores``
            and ``labels``.
        """
        location, logits = self.predict(image_BCHW)
        if targets is not None:
            boxes, labels = targets["boxes"], targets["labels"]
            return ssd_loss(location, logits, self.defaults, boxes, labels)
        return self._detections(location, logits)

    # Shapes depend on the scores here: each would be traced again, with its loop unrolled.
    @torch.compiler.disable
    def _detections(self, location_B4A: Tensor, logits_BKA: Tensor) -> list[dict[str, Tensor]]:
        images = ssd_detections(location_B4A, logits_BKA, self.defaults)
        return [{**image, "boxes": image["boxes"] * IMAGE_SIZE} for image in images]

    def predict(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return location_B4A, box codes, and logits_BKA of all default boxes."""
        x = self.backbone((image_BCHW / 255 - self.pixel_mean) / self.pixel_std)
        features = [x]
        for extra in self.extras:
            features.append(extra(features[-1]))
        batch = len(image_BCHW)
        # Coordinates (classes) come first in the channels, boxes of a cell second: a view as
        # (B, 4, -1) runs through box, row, column, which is the order of the default boxes.
        location = [
            head(f).reshape(batch, 4, -1) for head, f in zip(self.location, features, strict=True)
        ]
        logits = [
            head(f).reshape(batch, self.num_classes, -1)
            for head, f in zip(self.confidence, features, strict=True)
        ]
        return torch.cat(location, 2), torch.cat(logits, 2)

    def load_backbone(self, state: Mapping[str, Tensor]) -> None:
        """Load torchvision's ResNet-34 state dict, without the last stage and the classifier."""
        own = self.backbone.state_dict()
        for name, tensor in own.items():
            if name not in state and name.endswith("num_batches_tracked"):
                continue
            if name not in state or state[name].shape != tensor.shape:
                got = tuple(state[name].shape) if name in state else "nothing"
                raise ValueError(
                    f"backbone weights: {name} must have shape {tuple(tensor.shape)}, got {got}; "
                    "use torchvision's resnet34 state dict"
                )
        wanted = {name: state[name] for name in own if name in state}
        self.backbone.load_state_dict(wanted, strict=False)


def _stage(inputs: int, outputs: int, *, blocks: int, stride: int) -> nn.Sequential:
    """Build basic blocks, of which the first one changes channels and resolution."""
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
        )
    first = BasicBlock(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs) for _ in range(blocks - 1)))


def _extra(inputs: int, inner: int, outputs: int, strided: bool) -> nn.Sequential:
    """Build two convolutions that make the next, smaller feature map."""
    stride, padding = (2, 1) if strided else (1, 0)
    return nn.Sequential(
        nn.Conv2d(inputs, inner, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(inner, outputs, 3, stride=stride, padding=padding),
        nn.ReLU(inplace=True),
    )
