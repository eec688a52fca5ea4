"""COCO for Mask R-CNN: large images with boxes and polygons."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.coco import layout, store
from datamodules.coco import mask_images as masks
from datamodules.coco.annotations import Annotations
from datamodules.coco.aspect_sampler import AspectSampler
from datamodules.coco.datamodule import COCODataModule
from datamodules.coco.synthetic import ORIGINAL
from datamodules.common.device_jpeg import Decoder
from datamodules.common.sampling import run_seed


class COCOMaskDataModule(COCODataModule):
    """COCO for Mask R-CNN: images by their shorter side, polygons, one orientation per batch.

    A training batch is a dict of ``image`` (B, 3, H, W) uint8 RGB, padded; ``size`` (B, 2) int64,
    height and width without padding; and lists over the images: ``boxes`` (G, 4) float32 inclusive
    corners in pixels, ``labels`` (G,) int64 from 1, ``polygons`` of (corners, 2) arrays per object.
    An evaluation batch has ``image``, ``size``, ``index`` (B,) and ``original`` (B, 2) size.
    """

    demo_scenes: ClassVar[dict[str, Any]] = {"image_size": 128, "side": (0.3, 0.55)}
    weights_file = "R-50.pkl"

    def __init__(
        self,
        *,
        root: Path | None = None,
        prepared_dir: Path | None = None,
        batch_size: int = 16,
        evaluation_batch_size: int = 1,
        min_image_size: int = 800,
        max_image_size: int = 1333,
        num_workers: int = 0,
        decoder: Decoder = "cpu",
    ) -> None:
        """Defaults are the closed reference on one device.

        Args:
            root: Directory with ``train2017``, ``val2017`` and ``annotations``. None generates the
                demo data.
            prepared_dir: Directory for compact annotations; default ``finishline-coco`` in root.
            batch_size: Images per device and step.
            evaluation_batch_size: Most images per evaluation batch, all padded to one shape;
                affects only time and memory.
            min_image_size: Shorter side in pixels.
            max_image_size: Maximum longer side in pixels.
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
            evaluation_batch_size=evaluation_batch_size,
            num_workers=num_workers,
            decoder=decoder,
        )
        if not 1 <= min_image_size <= max_image_size:
            raise ValueError(
                f"min_image_size and max_image_size must be 1 <= min <= max, got {min_image_size} "
                f"and {max_image_size}"
            )
        self.image_size = masks.ImageSize(min_image_size, max_image_size)

    def unfit(self, counts: Mapping[str, Any]) -> list[str]:
        """Add objects without masks to the reasons."""
        return super().unfit(counts) + [
            f"{layout.annotation_file(self.folder, split)}: {counts[split]['without_mask']} "
            f"objects have no {what}; Mask R-CNN needs annotations with outlines (SSD does not)"
            for split, what in (("train", "polygons"), ("val", "mask"))
            if counts[split]["without_mask"]
        ]

    @property
    def num_train_samples(self) -> int:
        """Training images with at least one box whose sides exceed a pixel."""
        return int(self._manifest["train"]["images_with_usable_box"])

    @property
    def samples_per_epoch(self) -> int:
        """Training samples per epoch; the reference takes one step more than whole batches fit."""
        return self.steps_per_epoch * self.global_batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch."""
        return self.num_train_samples // self.global_batch_size + 1

    def write_demo(self, folder: Path) -> None:
        """Write the demo's scenes and its backbone's starting weights into an empty directory."""
        from datamodules.coco.demo_backbone import write_backbone

        super().write_demo(folder)
        write_backbone(folder)

    def mllog_facts(self) -> dict[str, Any]:
        """Return the log's data keys, from manifest and arguments."""
        size = self.image_size
        return super().mllog_facts() | {
            "min_image_size": size.shorter,
            "max_image_size": size.longest,
        }

    def train_dataloader(self) -> DataLoader[Any]:
        """Return this rank's shuffled images, one orientation per batch."""
        annotations = store.load(self._prepared, "train")
        samples = masks.usable(annotations)
        kind = masks.TrainingImages if self.decoder == "cpu" else masks.EncodedTrainingImages
        dataset = kind(
            layout.image_folder(self.folder, "train"),
            annotations,
            samples,
            size=self.image_size,
            seed=run_seed(),
        )
        sampler = AspectSampler(
            masks.landscape_or_portrait(annotations, samples),
            batch_size=self.batch_size,
            batches_per_epoch=self.steps_per_epoch * self.accumulation,
            **self.sampler_options,
        )
        return DataLoader(
            dataset, batch_sampler=sampler, collate_fn=masks.collate, **self.loader_options
        )

    def with_images(self, batch: dict[str, Any], images: list[Tensor]) -> dict[str, Any]:
        return {"image": masks.padded(images), **batch}

    def _evaluation_loader(self, annotations: Annotations, indices: range) -> DataLoader[Any]:
        folder = layout.image_folder(self.folder, "val")
        dataset = masks.EvaluationImages(folder, annotations, indices, self.image_size)
        batches = masks.batches_of_one_shape(
            annotations, indices, self.image_size, self.evaluation_batch_size
        )
        return DataLoader(
            dataset, batch_sampler=batches, collate_fn=masks.collate, **self.loader_options
        )

    def _evaluation_batch(self, image: Image.Image) -> dict[str, Any]:
        return masks.collate([masks.evaluation_sample(image, 0, self.image_size)])

    def _synthetic_images(self, size: int) -> dict[str, Any]:
        image = Image.effect_noise(ORIGINAL[::-1], 64).convert("RGB")
        sample = masks.evaluation_sample(image, 0, self.image_size)
        return masks.collate([{**sample, "index": number} for number in range(size)])

    def synthetic_batch(self) -> dict[str, Any]:
        """Return a random training batch on the CPU, for warm-up and speed tests."""
        return masks.synthetic(self.batch_size, self.image_size)
