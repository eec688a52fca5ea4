"""COCO for SSD: small square images with boxes."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.coco import layout, store
from datamodules.coco import ssd_images as ssd
from datamodules.coco.annotations import Annotations
from datamodules.coco.datamodule import COCODataModule
from datamodules.coco.device_jitter import jitter_batch
from datamodules.coco.synthetic import ORIGINAL
from datamodules.common.device_jpeg import Decoder
from datamodules.common.sampling import run_seed


class COCO300DataModule(COCODataModule):
    """COCO for SSD: 300 x 300 pixels, random crops, flips and colours.

    A training batch is a dict of ``image`` (B, 3, 300, 300) uint8 RGB, ``boxes`` (B, M, 4) float32
    corners in fractions and ``labels`` (B, M) int64 with 0 for padding. An evaluation batch has
    ``image``, ``index`` (B,) and ``size`` (B, 2), the original height and width.
    """

    demo_scenes: ClassVar[dict[str, Any]] = {"image_size": 300, "side": (0.2, 0.5)}
    weights_file = "resnet34-333f7ec4.pth"

    def __init__(
        self,
        *,
        root: Path | None = None,
        prepared_dir: Path | None = None,
        batch_size: int = 128,
        evaluation_batch_size: int | None = None,
        crop_attempts: int = 1,
        num_workers: int = 0,
        decoder: Decoder = "cpu",
    ) -> None:
        """Defaults are the closed reference on one device.

        Args:
            root: Directory with ``train2017``, ``val2017`` and ``annotations``. None generates the
                demo data.
            prepared_dir: Directory for compact annotations; default ``finishline-coco`` in root.
            batch_size: Images per device and step.
            evaluation_batch_size: Images per evaluation batch; default ``batch_size``.
            crop_attempts: Windows tried per crop mode (the log's max_samples); 1 or 50 in closed.
            num_workers: Loader processes per device; 0 loads in the training process.
            decoder: Where training images are decoded: ``nvimgcodec`` decodes on a CUDA device
                (extra ``[gpu]``); its pixels differ by rounding.

        Raises:
            ValueError: If a number is out of range.
        """
        super().__init__(
            root=root,
            prepared_dir=prepared_dir,
            batch_size=batch_size,
            evaluation_batch_size=batch_size
            if evaluation_batch_size is None
            else evaluation_batch_size,
            num_workers=num_workers,
            decoder=decoder,
        )
        if crop_attempts < 1:
            raise ValueError(f"crop_attempts must be at least 1, got {crop_attempts}")
        self.crop_attempts = crop_attempts

    @property
    def num_train_samples(self) -> int:
        """Training images with at least one annotation."""
        return int(self._manifest["train"]["annotated_images"])

    def net_facts(self) -> dict[str, Any]:
        """Return the number of classes, background included, and the image's side."""
        return super().net_facts() | {"image_size": 300}

    def mllog_facts(self) -> dict[str, Any]:
        """Return the log's data keys, from manifest and arguments."""
        return super().mllog_facts() | {"max_samples": self.crop_attempts}

    def train_dataloader(self) -> DataLoader[Any]:
        """Return this rank's shuffled, augmented images, from where a resumed run stopped."""
        annotations = store.load(self._prepared, "train")
        samples = np.flatnonzero(annotations.count() > 0)
        kind = ssd.TrainingImages if self.decoder == "cpu" else ssd.EncodedTrainingImages
        dataset = kind(
            layout.image_folder(self.folder, "train"),
            annotations,
            samples,
            seed=run_seed(),
            crop_attempts=self.crop_attempts,
        )
        sampler = self.epoch_sampler(len(samples))
        return DataLoader(
            dataset, batch_sampler=sampler, collate_fn=ssd.collate, **self.loader_options
        )

    def with_images(self, batch: dict[str, Any], images: list[Tensor]) -> dict[str, Any]:
        changes = batch.pop("changes")
        return {"image": jitter_batch(torch.stack(images), changes), **batch}

    def _evaluation_loader(self, annotations: Annotations, indices: range) -> DataLoader[Any]:
        dataset = ssd.EvaluationImages(
            layout.image_folder(self.folder, "val"), annotations, indices
        )
        return DataLoader(dataset, batch_size=self.evaluation_batch_size, **self.loader_options)

    def _evaluation_batch(self, image: Image.Image) -> dict[str, Any]:
        return {
            "image": ssd.to_tensor(ssd.resize(image, None, 300))[None],
            "index": torch.zeros(1, dtype=torch.int64),
            "size": torch.tensor([[image.height, image.width]]),
        }

    def _synthetic_images(self, size: int) -> dict[str, Any]:
        return {
            "image": torch.randint(0, 256, (size, 3, 300, 300), dtype=torch.uint8),
            "index": torch.arange(size),
            "size": torch.tensor([ORIGINAL] * size),
        }

    def synthetic_batch(self) -> dict[str, Tensor]:
        """Return a random training batch on the CPU, for warm-up and speed tests."""
        low = torch.rand(self.batch_size, ssd.PADDED_TO, 2) * 0.5
        side = torch.rand(self.batch_size, ssd.PADDED_TO, 2) * 0.4 + 0.1
        labels = torch.randint(1, 3, (self.batch_size, ssd.PADDED_TO))
        labels[:, 8:] = 0  # about as many boxes as a COCO image has, then padding
        return {
            "image": torch.randint(0, 256, (self.batch_size, 3, 300, 300), dtype=torch.uint8),
            "boxes": torch.cat([low, low + side], -1),
            "labels": labels,
        }
