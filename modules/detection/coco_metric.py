"""COCO's AP as a metric over ranks: gathers detections, then evaluates them in image order."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from modules.detection.coco_ap import coco_average_precision


class CocoAP(Metric):
    """Average precision of boxes and, where masks are given, of masks.

    Each image counts once, whichever ranks saw it, in the order of the image's index: the value
    is the same for any number of ranks.
    """

    full_state_update = False
    index: list[Tensor]
    count: list[Tensor]
    box: list[Tensor]
    score: list[Tensor]
    label: list[Tensor]
    mask: list[Tensor]
    mask_length: list[Tensor]

    def __init__(self, *, masks: bool = False) -> None:
        super().__init__()
        self.masks = masks
        self.truth: Mapping[str, Any] = {"images": [], "annotations": [], "categories": []}
        for state in ("index", "count", "box", "score", "label", "mask", "mask_length"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(
        self,
        index: int,
        box_N4: Tensor,
        score_N: Tensor,
        label_N: Tensor,
        masks: Sequence[bytes] = (),
    ) -> None:
        """Add one image.

        Args:
            index: Position of the image in the ground truth's list.
            box_N4: x, y, width, height in pixels of the original image.
            score_N: In ``[0, 1]``.
            label_N: int64, 1 + position of the category in the ground truth.
            masks: N compressed run lengths at the original size.

        Raises:
            ValueError: If a label is not one of the ground truth's categories.
        """
        device = self.device
        categories = len(self.truth["categories"])
        if bool(((label_N < 1) | (label_N > categories)).any()):
            raise ValueError(
                f"the network gave labels from {int(label_N.min())} to {int(label_N.max())}, but "
                f"the data's categories are numbered from 1 to {categories}; set its number of "
                "classes accordingly"
            )
        self.index.append(torch.tensor([index], device=device))
        self.count.append(torch.tensor([len(score_N)], device=device))
        self.box.append(box_N4.float().to(device))
        self.score.append(score_N.float().to(device))
        self.label.append(label_N.to(device))
        data = bytearray(b"".join(masks))
        flat = (
            torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
        )
        self.mask.append(flat.to(device))
        lengths = torch.tensor([len(mask) for mask in masks], dtype=torch.int64)
        self.mask_length.append(lengths.to(device))

    def begin(self, truth: Mapping[str, Any]) -> None:
        """Start an evaluation against the content of an annotation file."""
        self.truth = truth
        # Empty tensors, as a rank without images must still gather.
        empty = torch.empty(0, device=self.device)
        whole = torch.empty(0, dtype=torch.int64, device=self.device)
        self.index.append(whole)
        self.count.append(whole)
        self.box.append(empty.view(0, 4))
        self.score.append(empty)
        self.label.append(whole)
        self.mask.append(empty.to(torch.uint8))
        self.mask_length.append(whole)

    def _detections(self) -> list[dict[str, Any]]:
        """Return COCO's result records in the order of the image indices."""
        truth = self.truth
        category = [c["id"] for c in truth["categories"]]
        index, count = dim_zero_cat(self.index).tolist(), dim_zero_cat(self.count).tolist()
        box, score = dim_zero_cat(self.box).tolist(), dim_zero_cat(self.score).tolist()
        label = dim_zero_cat(self.label).tolist()
        segmentation = self._run_lengths() if self.masks else []
        start = 0
        of_image: dict[int, range] = {}
        for i, n in zip(index, count, strict=True):
            of_image.setdefault(i, range(start, start + n))
            start += n
        records = []
        for i in sorted(of_image):
            image = truth["images"][i]
            size = [image["height"], image["width"]]
            for k in of_image[i]:
                record = {"image_id": image["id"], "score": score[k], "bbox": box[k]}
                record["category_id"] = category[label[k] - 1]
                if self.masks:
                    record["segmentation"] = {"size": size, "counts": segmentation[k]}
                records.append(record)
        return records

    def _run_lengths(self) -> list[bytes]:
        """Split the one long tensor into every detection's mask."""
        data = dim_zero_cat(self.mask).cpu().numpy().tobytes()
        ends = dim_zero_cat(self.mask_length).cumsum(0).tolist()
        return [data[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)] if ends else []

    def compute(self) -> dict[str, Tensor]:
        """Return ``box_ap``, ``box_ap50``, ``box_ap75`` and the same with ``mask``.

        Over the images of all ranks, in float64 on the CPU. An error never becomes a score.
        """
        detections = self._detections()
        kinds = {"box": "bbox"} | ({"mask": "segm"} if self.masks else {})
        values: dict[str, Tensor] = {}
        for name, kind in kinds.items():
            drop = "segmentation" if kind == "bbox" else "bbox"
            records = [{k: v for k, v in record.items() if k != drop} for record in detections]
            result = coco_average_precision(self.truth, records, kind=kind)  # type: ignore[arg-type]
            values |= {
                f"{name}_{key}": torch.tensor(value, dtype=torch.float64)
                for key, value in result.items()
            }
        return values
