"""Mask R-CNN with ResNet-50 and a feature pyramid, as the reference of MLPerf v1.0 builds it.

Letters: B batch, R regions, K classes with background. Images are (B, 3, H, W) uint8 RGB, padded at
the right and bottom to multiples of 32; boxes are inclusive corners in pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from modules.detection.contract import check_not_diverged
from modules.detection.maskrcnn.anchors import anchor_grid
from modules.detection.maskrcnn.backbone import CaffeResNet50
from modules.detection.maskrcnn.instance_masks import polygon_targets
from modules.detection.maskrcnn.roi_heads import (
    Regions,
    box_losses,
    detect,
    mask_loss,
    pool_regions,
    sample_proposals,
)
from modules.detection.maskrcnn.rpn import Limits, flatten_head, propose, rpn_losses

PIXEL_MEAN_BGR = (102.9801, 115.9465, 122.7717)
STRIDES = (4, 8, 16, 32, 64)


class MaskRCNN(nn.Module):
    """Boxes and masks in two stages; with targets it gives its losses, without them detections.

    Args:
        num_classes: Classes, background included.
        width: Channels of the backbone's stem.
        pyramid_channels: Channels of the feature pyramid.
        box_features: Width of the box head's two layers.
        mask_channels: Channels of the mask head.
        anchor_sizes: Side of the square anchor of every level, in pixels.
        proposals: Maximum per image and level in training, before and after suppression. A batch
            then keeps the best of all its levels and images, half this number per image (counting
            at least two images).
        evaluation_proposals: Maximum in evaluation, per image and level and per image.
        anchors_per_image: Anchors sampled for the proposal loss.
        regions_per_image: Regions sampled for the heads' losses.

    Source:
        mlcommons/training (v1.0), object_detection/pytorch, e2e_mask_rcnn_R_50_FPN_1x.yaml.
        44,347,573 parameters, 44,125,173 of them trained.
    """

    pixel_mean: Tensor
    batch_size: int | None = None
    """Images of a full training batch, which the last of an orientation may not have; None takes
    each batch's own number."""

    def __init__(
        self,
        num_classes: int = 81,
        width: int = 64,
        pyramid_channels: int = 256,
        box_features: int = 1024,
        mask_channels: int = 256,
        anchor_sizes: Sequence[float] = (32, 64, 128, 256, 512),
        proposals: int = 2000,
        evaluation_proposals: int = 1000,
        anchors_per_image: int = 256,
        regions_per_image: int = 512,
    ) -> None:
        super().__init__()
        self.num_classes, self.anchor_sizes = num_classes, tuple(anchor_sizes)
        self.proposals, self.evaluation_proposals = proposals, evaluation_proposals
        self.anchors_per_image, self.regions_per_image = anchors_per_image, regions_per_image
        self.backbone = CaffeResNet50(width)
        self.fpn = FeaturePyramidNetwork(
            self.backbone.channels, pyramid_channels, extra_blocks=LastLevelMaxPool()
        )
        self.rpn = RPNHead(pyramid_channels, num_anchors=3)
        self.box_head = BoxHead(pyramid_channels, box_features, num_classes)
        self.mask_head = MaskHead(pyramid_channels, mask_channels, num_classes)
        mean = torch.tensor(PIXEL_MEAN_BGR).view(3, 1, 1)
        self.register_buffer("pixel_mean", mean, persistent=False)

    def forward(
        self,
        image_BCHW: Tensor,
        size_B2: Tensor,
        targets: Mapping[str, Any] | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Compute losses or detections.

        Args:
            image_BCHW: uint8 RGB, padded.
            size_B2: int64 height and width of every image without padding.
            targets: Per image ``boxes`` (G, 4), ``labels`` (G,) from 1 and ``polygons``, for each
                object a list of (corners, 2) arrays in pixels; None to detect.

        Returns:
            Scalars ``objectness``, ``rpn_box``, ``class``, ``box`` and ``mask``; or per image
            ``boxes``, ``scores``, ``labels`` and ``masks`` (N, 28, 28), probabilities in the box.

        Raises:
            ValueError: If a network that detects has diverged.
        """
        sizes = size_B2.tolist()
        features = list(self.fpn(self.backbone(self.normalise(image_BCHW, sizes))).values())
        logits, codes = flatten_head(*self.rpn(features))
        anchors = [
            anchor_grid(*f.shape[-2:], stride, size, f.device)
            for f, stride, size in zip(features, STRIDES, self.anchor_sizes, strict=True)
        ]
        # The layout that pooling needs, converted once for both heads.
        maps = [f.to(torch.float32, memory_format=torch.contiguous_format) for f in features[:-1]]
        if targets is None:
            check_not_diverged(*logits, *codes)
            limits = Limits(self.evaluation_proposals, self.evaluation_proposals)
            boxes = propose(anchors, logits, codes, sizes, limits, pooled=False)
            return self._detections(maps, boxes, sizes)
        limits = Limits(self.proposals, self.image_candidates(self.batch_size or len(sizes)))
        boxes = propose(anchors, logits, codes, sizes, limits, pooled=True)
        losses = rpn_losses(
            torch.cat(anchors),
            torch.cat(logits, 1),
            torch.cat(codes, 1),
            targets["boxes"],
            sizes,
            self.anchors_per_image,
        )
        return losses | self._head_losses(maps, boxes, targets)

    def image_candidates(self, batch_size: int) -> int:
        """Return how many proposals training keeps of a batch: 2000 of 1 or 2 images, 3000 of 3."""
        return self.proposals * max(2, batch_size) // 2

    def normalise(self, image_BCHW: Tensor, sizes: Sequence[Sequence[int]]) -> Tensor:
        """Turn uint8 RGB into the backbone's float32 BGR minus the mean, 0 in the padding."""
        x = image_BCHW.flip(1).float() - self.pixel_mean
        for image, (height, width) in zip(x, sizes, strict=True):
            image[:, height:] = 0
            image[:, :, width:] = 0
        return x

    def load_backbone(self, blobs: Mapping[str, np.ndarray]) -> None:
        """Load the backbone's weights from Caffe2's blobs by name."""
        self.backbone.load_blobs(blobs)

    def _head_losses(
        self, features: Sequence[Tensor], proposals: Sequence[Tensor], targets: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """Compute the losses of box and mask head on sampled regions."""
        triples = zip(proposals, targets["boxes"], targets["labels"], strict=True)
        regions = [sample_proposals(*triple, self.regions_per_image) for triple in triples]
        logits, codes = self.box_head(pool_regions(features, [r.box for r in regions], 7))
        losses = box_losses(logits, codes, regions, targets["boxes"])
        positive = [r.box[: r.positives] for r in regions]
        label = torch.cat([r.label[: r.positives] for r in regions])
        polygons = _matched_polygons(regions, targets["polygons"])
        boxes = torch.cat(positive).cpu()
        masks = self.mask_head(pool_regions(features, positive, 14), label)
        # Drawn on the host while a GPU computes the masks above.
        target = polygon_targets(polygons, boxes).to(masks.device)
        return losses | {"mask": mask_loss(masks, target)}

    def _detections(
        self,
        features: Sequence[Tensor],
        proposals: Sequence[Tensor],
        sizes: Sequence[Sequence[int]],
    ) -> list[dict[str, Tensor]]:
        """Compute boxes from the proposals, then masks from the boxes."""
        counts = [len(p) for p in proposals]
        logits, codes = self.box_head(pool_regions(features, proposals, 7))
        parts = zip(logits.split(counts), codes.split(counts), proposals, sizes, strict=True)
        images = [dict(detect(*part)) for part in parts]
        label = torch.cat([image["labels"] for image in images])
        pooled = pool_regions(features, [image["boxes"] for image in images], 14)
        masks = self.mask_head(pooled, label).float().sigmoid()
        check_not_diverged(masks)
        counts = [len(image["labels"]) for image in images]
        return [{**image, "masks": m} for image, m in zip(images, masks.split(counts), strict=True)]


class BoxHead(nn.Module):
    """Two layers, then class logits and a box per class."""

    def __init__(self, channels: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.fc6, self.fc7 = nn.Linear(channels * 49, width), nn.Linear(width, width)
        self.score, self.box = nn.Linear(width, num_classes), nn.Linear(width, 4 * num_classes)
        for layer in (self.fc6, self.fc7):
            nn.init.kaiming_uniform_(layer.weight, a=1)
        nn.init.normal_(self.score.weight, std=0.01)
        nn.init.normal_(self.box.weight, std=0.001)
        for layer in (self.fc6, self.fc7, self.score, self.box):
            nn.init.zeros_(layer.bias)

    def forward(self, pooled_RCSS: Tensor) -> tuple[Tensor, Tensor]:
        """Return logit_RK and code_RK4."""
        x = torch.relu(self.fc7(torch.relu(self.fc6(pooled_RCSS.flatten(1)))))
        return self.score(x), self.box(x).view(len(x), self.score.out_features, 4)


class MaskHead(nn.Sequential):
    """Four convolutions, one that doubles the resolution, one mask per class."""

    def __init__(self, channels: int, width: int, num_classes: int) -> None:
        layers: list[nn.Module] = []
        for inputs in (channels, width, width, width):
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(inplace=True)]
        layers += [nn.ConvTranspose2d(width, width, 2, stride=2), nn.ReLU()]
        super().__init__(*layers, nn.Conv2d(width, num_classes, 1))
        for layer in self:
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, pooled_RCSS: Tensor, label_R: Tensor) -> Tensor:  # type: ignore[override]
        """Return mask logits (R, 28, 28) of each region's class only, as no other is needed."""
        *layers, double, _, last = self
        assert isinstance(double, nn.ConvTranspose2d)
        assert isinstance(last, nn.Conv2d)
        assert double.bias is not None
        assert last.bias is not None
        for layer in layers:
            pooled_RCSS = layer(pooled_RCSS)
        # The four cells upsampled from one do not overlap, so they stay four times the channels;
        # only the logits are rearranged into an image.
        channels, side = double.out_channels, pooled_RCSS.shape[-1]
        weight_DC11 = double.weight.permute(2, 3, 1, 0).reshape(4 * channels, -1, 1, 1)
        cells_RDSS = nn.functional.conv2d(pooled_RCSS, weight_DC11, double.bias.repeat(4))
        cells_RQCP = cells_RDSS.relu_().view(len(label_R), 4, channels, side**2)
        weight_R11C, bias_R = last.weight[label_R].flatten(1)[:, None, None], last.bias[label_R]
        logits = (weight_R11C @ cells_RQCP).view(-1, 2, 2, side, side)
        logits = logits.permute(0, 3, 1, 4, 2).reshape(-1, 2 * side, 2 * side)
        return logits + bias_R[:, None, None]


def _matched_polygons(regions: Sequence[Regions], polygons: Sequence[Any]) -> list[Any]:
    """Return the polygons of every positive region's object."""
    return [
        polygons[image][number] for image, r in enumerate(regions) for number in r.truth.tolist()
    ]
