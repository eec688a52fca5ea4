"""COCO 2017: photographs with boxes and outlines of objects, for SSD and Mask R-CNN.

Data: cocodataset.org, 118,287 training and 5,000 evaluation images, 20 GB, annotations CC BY 4.0,
images under their owners' Flickr terms. 117,266 training images have annotations and are used.
"""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.coco import mask_images as masks
from datamodules.coco import ssd_images as ssd
from datamodules.coco import store
from datamodules.coco.annotations import Annotations, read_json
from datamodules.coco.aspect_sampler import AspectSampler
from datamodules.coco.faults import drawable
from datamodules.common.base import BenchmarkDataModule
from datamodules.common.cache import build_once, demo_folder
from datamodules.common.sampling import evaluation_indices, padded_length, run_seed


class COCODataModule(BenchmarkDataModule):
    """What both benchmarks share: the folder, its checks, the evaluation set's annotations.

    Args:
        root: Folder with ``train2017``, ``val2017`` and ``annotations``; None for the demo.
        prepared_dir: Where compact annotations go; ``finishline-coco`` in the root by default.
        batch_size: Images per device and step.
        num_workers: Loader processes per device.

    Raises:
        ValueError: If a number lies outside its range.
    """

    demo_scenes: ClassVar[dict[str, Any]]
    """Arguments of the demo's writer."""
    weights_file: ClassVar[str]
    """Name of the weights that the benchmark's backbone starts from, in the root."""

    def __init__(
        self,
        *,
        root: Path | None,
        prepared_dir: Path | None,
        batch_size: int,
        num_workers: int,
    ) -> None:
        super().__init__()
        if batch_size < 1 or num_workers < 0:
            raise ValueError(
                f"batch_size must be at least 1 and num_workers at least 0, got {batch_size} and "
                f"{num_workers}"
            )
        self.demo = root is None
        self.root = None if root is None else Path(root)  # notebooks pass text
        self.prepared_dir = None if prepared_dir is None else Path(prepared_dir)
        self.batch_size, self.num_workers = batch_size, num_workers
        self._facts: dict[str, Any] | None = None
        self._truth: dict[str, Any] | None = None

    @property
    def folder(self) -> Path:
        """The COCO folder: the root, or the demo's in the cache."""
        if self.root is not None:
            return self.root
        from datamodules.coco.demo import VERSION

        return demo_folder("coco", VERSION, self.demo_scenes)

    @property
    @abstractmethod
    def num_train_samples(self) -> int:
        """Training images that are used."""

    @property
    def num_categories(self) -> int:
        """Categories of the annotation files; labels go from 1 to this number."""
        return len(self._manifest["categories"])

    def prepare_data(self) -> None:
        """Check the folder and make compact annotations; a ready folder's manifest is read only.

        Raises:
            FileNotFoundError: One line per missing part.
            ValueError: One line per problem in annotations or images.
        """
        if self.demo:
            build_once(self.folder, self.write_demo)
        manifest = store.prepare(self.folder, self._prepared, show_progress=not self.demo)
        if lines := self.unfit(manifest):
            raise ValueError("\n".join(lines))

    def write_demo(self, folder: Path) -> None:
        """Write the demo data set.

        Args:
            folder: Empty folder.
        """
        from datamodules.coco.demo import write_scenes

        write_scenes(folder, **self.demo_scenes)

    def prepare(self) -> None:
        """The same with a verdict, for the ``prepare`` command.

        Raises:
            FileNotFoundError: One line per missing part.
            ValueError: One line per problem in annotations or images.
        """
        self.prepare_data()
        facts = self._manifest
        print(
            f"COCO{' demo' if self.demo else ''} is ready in {self.folder}: "
            f"{self.num_train_samples} of {facts['train']['images']} training images, "
            f"{facts['val']['images']} evaluation "
            f"images, {len(facts['categories'])} categories"
        )
        for line in self.notes():
            print(line)

    def notes(self) -> list[str]:
        """What training needs beside this data, for ``prepare`` and ``doctor``.

        Returns:
            One line per missing thing.
        """
        if self.root is None or (self.root / self.weights_file).is_file():
            return []
        return [
            f"Training also needs {self.root / self.weights_file}, or another file named with "
            "--model.backbone_weights"
        ]

    def problems(self) -> list[str]:
        """What keeps this root from being used.

        Returns:
            One line per problem; empty when all is well. Reads annotations and images only where
            they were not prepared yet.
        """
        if self.root is None or store.missing_parts(self.root):
            return [] if self.root is None else store.missing_parts(self.root)
        try:
            facts = store.ready_manifest(self.root, self._prepared)
            return self.unfit(facts or store.facts(store.check(self.root)))
        except ValueError as error:
            return str(error).splitlines()

    def unfit(self, facts: Mapping[str, Any]) -> list[str]:
        """Why sound annotations are of no use for this benchmark.

        Args:
            facts: Counts of both splits.

        Returns:
            One line per problem.
        """
        return [
            f"{store.annotation_file(self.folder, split)} holds no object to {what}; take COCO's "
            "own file, or annotate your images"
            for split, what in (("train", "learn from"), ("val", "find"))
            if not facts[split]["objects"]
        ]

    def setup(self, stage: str) -> None:
        """Refuse a batch that the data set cannot fill.

        Args:
            stage: ``fit`` or ``validate``.

        Raises:
            ValueError: If a global batch is larger than the training set.
        """
        if stage == "fit" and self.global_batch_size > self.num_train_samples:
            raise ValueError(
                f"the global batch of {self.global_batch_size} images (data.batch_size "
                f"{self.batch_size} x devices x accumulation) is larger than the training set of "
                f"{self.num_train_samples}; lower data.batch_size"
            )

    @property
    def samples_per_epoch(self) -> int:
        """Training samples per epoch, padded to whole global batches."""
        return padded_length(self.num_train_samples, self.global_batch_size)

    def mllog_facts(self) -> dict[str, Any]:
        """The log's data keys, from the manifest.

        Returns:
            Values by key.
        """
        return {
            "train_samples": self.num_train_samples,
            "eval_samples": self._manifest["val"]["images"],
        }

    def evaluation_truth(self) -> dict[str, Any]:
        """Content of the evaluation set's annotation file, for the metric.

        Returns:
            images, annotations and categories as in the file; images sorted by id, so that an
            evaluation batch's ``index`` counts in them; polygons that enclose nothing left out.
        """
        if self._truth is None:
            truth = read_json(store.annotation_file(self.folder, "val"))
            truth["images"].sort(key=lambda image: image["id"])
            for record in truth["annotations"]:
                # The evaluation takes all of an object's polygons for boxes if the first has four
                # numbers.
                if isinstance(record.get("segmentation"), list):
                    record["segmentation"] = drawable(record)
            self._truth = truth
        return self._truth

    def val_dataloader(self) -> DataLoader[Any]:
        """Evaluation images of this rank, each exactly once over all ranks.

        Returns:
            The loader.
        """
        annotations = store.load(self._prepared, "val")
        self.evaluation_truth()
        indices = evaluation_indices(len(annotations), self.trainer)
        return self._evaluation_loader(annotations, indices)

    @abstractmethod
    def _evaluation_loader(self, annotations: Annotations, indices: range) -> DataLoader[Any]:
        """Loader of some evaluation images."""

    @property
    def _prepared(self) -> Path:
        return self.prepared_dir or self.folder / store.PREPARED

    @property
    def _manifest(self) -> dict[str, Any]:
        """Counts of the prepared data set; read once."""
        if self._facts is None:
            self._facts = store.ready_manifest(self.folder, self._prepared)
        if self._facts is None:
            raise ValueError(f"{self.folder} is not prepared; run the recipe's prepare command")
        return self._facts


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
    ) -> None:
        """Defaults are the closed reference on one device.

        Args:
            root: Folder with ``train2017``, ``val2017`` and ``annotations``. None generates the
                demo data.
            prepared_dir: Where compact annotations go; ``finishline-coco`` in the root by default.
            batch_size: Images per device and step.
            evaluation_batch_size: Images per evaluation batch; ``batch_size`` by default.
            crop_attempts: Windows tried per crop mode (the log's max_samples); 1 or 50 in closed.
            num_workers: Loader processes per device; 0 loads in the training process.

        Raises:
            ValueError: If a number lies outside its range.
        """
        super().__init__(
            root=root, prepared_dir=prepared_dir, batch_size=batch_size, num_workers=num_workers
        )
        if crop_attempts < 1:
            raise ValueError(f"crop_attempts must be at least 1, got {crop_attempts}")
        self.crop_attempts = crop_attempts
        self.evaluation_batch_size = evaluation_batch_size or batch_size

    @property
    def num_train_samples(self) -> int:
        """Training images with at least one annotation."""
        return int(self._manifest["train"]["annotated_images"])

    def mllog_facts(self) -> dict[str, Any]:
        """The log's data keys, from manifest and arguments.

        Returns:
            Values by key.
        """
        return super().mllog_facts() | {"max_samples": self.crop_attempts}

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled, augmented images of this rank, from where a resumed run stopped.

        Returns:
            The loader.
        """
        annotations = store.load(self._prepared, "train")
        samples = np.flatnonzero(annotations.count() > 0)
        dataset = ssd.TrainingImages(
            store.image_folder(self.folder, "train"),
            annotations,
            samples,
            seed=run_seed(),
            crop_attempts=self.crop_attempts,
        )
        sampler = self.epoch_sampler(len(samples))
        return DataLoader(
            dataset, batch_sampler=sampler, collate_fn=ssd.collate, **self.loader_options
        )

    def _evaluation_loader(self, annotations: Annotations, indices: range) -> DataLoader[Any]:
        dataset = ssd.EvaluationImages(store.image_folder(self.folder, "val"), annotations, indices)
        return DataLoader(dataset, batch_size=self.evaluation_batch_size, **self.loader_options)

    def synthetic_batch(self) -> dict[str, Tensor]:
        """A random training batch on the CPU, for warm-up and speed tests.

        Returns:
            A batch with the keys, shapes and types of a training batch.
        """
        low = torch.rand(self.batch_size, ssd.PADDED_TO, 2) * 0.5
        side = torch.rand(self.batch_size, ssd.PADDED_TO, 2) * 0.4 + 0.1
        labels = torch.randint(1, 3, (self.batch_size, ssd.PADDED_TO))
        labels[:, 8:] = 0  # about as many boxes as COCO's images have, the rest is padding
        return {
            "image": torch.randint(0, 256, (self.batch_size, 3, 300, 300), dtype=torch.uint8),
            "boxes": torch.cat([low, low + side], -1),
            "labels": labels,
        }


class COCOMaskDataModule(COCODataModule):
    """COCO for Mask R-CNN: images by their shorter side, polygons, one orientation per batch.

    A training batch is a dict of ``image`` (B, 3, H, W) uint8 RGB, padded; ``size`` (B, 2) int64
    real height and width; and lists over the images: ``boxes`` (G, 4) float32 inclusive corners in
    pixels, ``labels`` (G,) int64 from 1, ``polygons`` of (corners, 2) arrays per object. An
    evaluation batch has ``image``, ``size``, ``index`` (B,) and ``original`` (B, 2) size.
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
    ) -> None:
        """Defaults are the closed reference on one device.

        Args:
            root: Folder with ``train2017``, ``val2017`` and ``annotations``. None generates the
                demo data.
            prepared_dir: Where compact annotations go; ``finishline-coco`` in the root by default.
            batch_size: Images per device and step.
            evaluation_batch_size: Images per evaluation batch; changes time and memory only.
            min_image_size: Shorter side in pixels.
            max_image_size: Most pixels of the longer side.
            num_workers: Loader processes per device; 0 loads in the training process.

        Raises:
            ValueError: If a number lies outside its range.
        """
        super().__init__(
            root=root, prepared_dir=prepared_dir, batch_size=batch_size, num_workers=num_workers
        )
        if not 1 <= min_image_size <= max_image_size:
            raise ValueError(
                f"min_image_size and max_image_size must be 1 <= min <= max, got {min_image_size} "
                f"and {max_image_size}"
            )
        self.image_size = masks.ImageSize(min_image_size, max_image_size)
        self.evaluation_batch_size = evaluation_batch_size

    def unfit(self, facts: Mapping[str, Any]) -> list[str]:
        """Objects without masks are of no use either.

        Args:
            facts: Counts of both splits.

        Returns:
            One line per problem.
        """
        return super().unfit(facts) + [
            f"{store.annotation_file(self.folder, split)}: {facts[split]['without_mask']} objects "
            f"have no {what}; Mask R-CNN needs annotations with outlines (SSD does not)"
            for split, what in (("train", "polygons"), ("val", "mask"))
            if facts[split]["without_mask"]
        ]

    @property
    def num_train_samples(self) -> int:
        """Training images with at least one box whose sides exceed a pixel."""
        return int(self._manifest["train"]["images_with_usable_box"])

    @property
    def samples_per_epoch(self) -> int:
        """Training samples per epoch: the reference takes one step more than whole batches fit."""
        return self.steps_per_epoch * self.global_batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch."""
        return self.num_train_samples // self.global_batch_size + 1

    def write_demo(self, folder: Path) -> None:
        """Write the demo's scenes and the weights that its backbone starts from.

        Args:
            folder: Empty folder.
        """
        from datamodules.coco.demo_backbone import write_backbone

        super().write_demo(folder)
        write_backbone(folder)

    def mllog_facts(self) -> dict[str, Any]:
        """The log's data keys, from manifest and arguments.

        Returns:
            Values by key.
        """
        size = self.image_size
        return super().mllog_facts() | {
            "min_image_size": size.shorter,
            "max_image_size": size.longest,
        }

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled images of this rank, one orientation per batch.

        Returns:
            The loader.
        """
        annotations = store.load(self._prepared, "train")
        samples = masks.usable(annotations)
        dataset = masks.TrainingImages(
            store.image_folder(self.folder, "train"),
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

    def _evaluation_loader(self, annotations: Annotations, indices: range) -> DataLoader[Any]:
        folder = store.image_folder(self.folder, "val")
        dataset = masks.EvaluationImages(folder, annotations, indices, self.image_size)
        return DataLoader(
            dataset,
            batch_size=self.evaluation_batch_size,
            collate_fn=masks.collate,
            **self.loader_options,
        )

    def synthetic_batch(self) -> dict[str, Any]:
        """A random training batch on the CPU, for warm-up and speed tests.

        Returns:
            A batch with the structure, shapes and types of a training batch.
        """
        return masks.synthetic(self.batch_size, self.image_size)
