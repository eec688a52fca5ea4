"""COCO 2017: photographs with boxes and outlines of objects, for SSD and Mask R-CNN.

Data: cocodataset.org, 118,287 training and 5,000 evaluation images, 20 GB, annotations CC BY 4.0,
images under their owners' Flickr terms. 117,266 training images have annotations and are used.
"""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.coco import layout, store, synthetic
from datamodules.coco.annotations import Annotations
from datamodules.coco.directory_check import check
from datamodules.coco.image_check import decode_rgb
from datamodules.coco.inputs import in_words, read_rgb, records
from datamodules.coco.json_file import read_json
from datamodules.coco.misfit import drawable
from datamodules.coco.published import COUNTS, count_differences
from datamodules.coco.ssd_images import to_tensor
from datamodules.common.cache import build_once, demo_folder
from datamodules.common.device_jpeg import Decoder, DecodesOnDevice
from datamodules.common.inputs import write_json
from datamodules.common.records import unreadable
from datamodules.common.sampling import evaluation_indices, padded_length


class COCODataModule(DecodesOnDevice):
    """The directory, its checks, and the evaluation set's annotations, for both benchmarks.

    Args:
        root: Directory with ``train2017``, ``val2017`` and ``annotations``. None generates the
            demo data.
        prepared_dir: Directory for compact annotations; default ``finishline-coco`` in the root.
        batch_size: Images per device and step.
        evaluation_batch_size: Most images per evaluation batch.
        num_workers: Loader processes per device.
        decoder: Where training images are decoded.

    Raises:
        ValueError: If a number is out of range.
    """

    prediction_endings: ClassVar[tuple[str, ...]] = (".json",)
    evaluation_sample = "image"
    demo_scenes: ClassVar[dict[str, Any]]
    """Arguments of the demo's writer."""
    weights_file: ClassVar[str]
    """Name, in the root, of the weights that the benchmark's backbone starts from."""

    def __init__(
        self,
        *,
        root: Path | None,
        prepared_dir: Path | None,
        batch_size: int,
        evaluation_batch_size: int,
        num_workers: int,
        decoder: Decoder,
    ) -> None:
        super().__init__()
        bounds = {
            "batch_size": (batch_size, 1),
            "evaluation_batch_size": (evaluation_batch_size, 1),
            "num_workers": (num_workers, 0),
        }
        if bad := [
            f"data.{name} must be at least {least}, got {value}"
            for name, (value, least) in bounds.items()
            if value < least
        ]:
            raise ValueError("\n".join(bad))
        self.demo = root is None
        self.root = None if root is None else Path(root)  # notebooks pass a str
        self.prepared_dir = None if prepared_dir is None else Path(prepared_dir)
        self.batch_size, self.evaluation_batch_size = batch_size, evaluation_batch_size
        self.num_workers, self.decoder = num_workers, decoder
        self._facts: dict[str, Any] | None = None
        self._truth: dict[str, Any] | None = None

    @property
    def folder(self) -> Path:
        """The COCO directory: the root, or the demo's in the cache."""
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

    def use_synthetic_data(self, memory: float) -> list[str]:
        """Take COCO's numbers of images and categories."""
        self.synthetic, self._facts = True, synthetic.manifest()
        return []

    def synthetic_evaluation_batch(self, size: int) -> tuple[Any, int]:
        """Return random images on the CPU; ``evaluation_truth`` then has as many."""
        self._truth = synthetic.truth(size)
        return self._synthetic_images(size), size

    @abstractmethod
    def _synthetic_images(self, size: int) -> dict[str, Any]:
        """Return an evaluation batch of random images."""

    def prepare_data(self) -> None:
        """Check the directory and write compact annotations; if done, read only the manifest.

        Raises:
            FileNotFoundError: One line per missing part.
            ValueError: One line per problem in annotations or images.
        """
        self._prepare(compare=False)

    def _prepare(self, *, compare: bool) -> None:
        if self.demo:
            build_once(self.folder, self.write_demo)
        manifest = store.prepare(
            self.folder, self._prepared, compare=compare, show_progress=not self.demo
        )
        if lines := self.unfit(manifest):
            raise ValueError("\n".join(lines))

    def write_demo(self, folder: Path) -> None:
        """Write the demo data set into an empty directory."""
        from datamodules.coco.demo import write_scenes

        write_scenes(folder, **self.demo_scenes)

    def prepare(self) -> None:
        """Run ``prepare_data``, compare all images with those checked before, print a summary.

        Raises:
            FileNotFoundError: One line per missing part.
            ValueError: One line per problem in annotations or images.
        """
        self._prepare(compare=True)
        counts = self._manifest
        print(
            f"COCO{' demo' if self.demo else ''} is ready in {self.folder}: "
            f"{self.num_train_samples} of {counts['train']['images']} training images, "
            f"{counts['val']['images']} evaluation "
            f"images, {len(counts['categories'])} categories"
        )
        for line in self.notes():
            print(line)

    def notes(self) -> list[str]:
        """List what training needs besides this data, for ``prepare`` and ``doctor``."""
        if self.root is None or (self.root / self.weights_file).is_file():
            return []
        return [
            f"Training also needs {self.root / self.weights_file}, or another file given with "
            "--model.backbone_weights"
        ]

    def problems(self) -> list[str]:
        """List what makes this root unusable; reads annotations and images only if not prepared.

        Returns:
            One line per problem; empty if there is none.
        """
        if self.root is None:
            return []
        try:
            if lines := layout.missing_parts(self.root):
                return lines
            counts = store.read_manifest(self.root, self._prepared, replace=True)
            if counts is None:
                if lines := store.missing_room(self.root, self._prepared):
                    return lines
                parsed, _ = check(self.root)
                counts = {split: store.count(parsed[split], split) for split in layout.SPLITS}
            elif lines := store.changes(self.root, self._prepared):
                return [f"{line}; run the recipe's prepare command" for line in lines]
            return self.unfit(counts)
        except OSError as error:
            return [str(unreadable(self.root, error))]
        except ValueError as error:
            return str(error).splitlines()

    def differences(self) -> list[str]:
        """Say how the data in the root differs from COCO 2017: numbers of images before it is
        prepared, also of annotations and categories afterwards.

        Returns:
            One line per difference; empty for COCO itself and for demo data.
        """
        if self.root is None or layout.missing_parts(self.root):
            return []
        if manifest := store.read_manifest(self.root, self._prepared, replace=True):
            return count_differences(manifest)
        found = {split: layout.count_images(self.root, split) for split in layout.SPLITS}
        return [
            f"{number:,} images in {layout.image_folder(self.root, split)} instead of "
            f"{COUNTS[split]['images']:,}"
            for split, number in found.items()
            if number != COUNTS[split]["images"]
        ]

    def net_facts(self) -> dict[str, Any]:
        """Return the number of classes, background included.

        Returns:
            ``num_classes``: 81 for COCO, 4 for the demo.

        Raises:
            ValueError: If the annotations cannot be read.
        """
        return {"num_classes": 1 + self._count_categories()}

    def _count_categories(self) -> int:
        """Count them before the data is prepared, too."""
        if self.synthetic:
            return self.num_categories
        if self.root is None:
            from datamodules.coco.demo import SHAPES

            return len(SHAPES)
        try:
            if manifest := store.ready_manifest(self.root, self._prepared):
                return len(manifest["categories"])
            content = read_json(layout.annotation_file(self.root, "val"))
        except OSError as error:
            raise ValueError(f"the number of categories is not known yet: {error}") from error
        return len(content["categories"])

    def unfit(self, counts: Mapping[str, Any]) -> list[str]:
        """List why valid annotations are unusable for this benchmark, from their counts."""
        return [
            f"{layout.annotation_file(self.folder, split)} contains no object to {what}; use "
            "COCO's own file, or annotate your images"
            for split, what in (("train", "learn from"), ("val", "find"))
            if not counts[split]["objects"]
        ]

    def setup(self, stage: str) -> None:
        """Check that the data set fills a global batch.

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
        super().setup(stage)

    def decode_on_host(self, data: bytes) -> Tensor:
        return to_tensor(decode_rgb(data))

    @property
    def samples_per_epoch(self) -> int:
        """Training samples per epoch, padded to whole global batches."""
        return padded_length(self.num_train_samples, self.global_batch_size)

    def mllog_facts(self) -> dict[str, Any]:
        """Return the log's data keys, from the manifest."""
        return {
            "train_samples": self.num_train_samples,
            "eval_samples": self._manifest["val"]["images"],
        }

    def evaluation_truth(self) -> dict[str, Any]:
        """Return the evaluation set's annotations, for the metric.

        Returns:
            images, annotations and categories as in the file; images sorted by id, so that an
            evaluation batch's ``index`` refers to them; without polygons of fewer than 3 corners.
        """
        if self._truth is None:
            truth = read_json(layout.annotation_file(self.folder, "val"))
            truth["annotations"] = list(truth["annotations"])
            truth["images"].sort(key=lambda image: image["id"])
            for record in truth["annotations"]:
                # The evaluation treats all polygons of an object as boxes if the first has four
                # numbers.
                if isinstance(record.get("segmentation"), list):
                    record["segmentation"] = drawable(record)
            self._truth = truth
        return self._truth

    def val_dataloader(self) -> DataLoader[Any]:
        """Return this rank's evaluation images, each exactly once over all ranks."""
        annotations = store.load(self._prepared, "val")
        self.evaluation_truth()
        indices = evaluation_indices(len(annotations), self.trainer)
        return self._evaluation_loader(annotations, indices)

    def read_input(self, source: str) -> dict[str, Any]:
        """Read an image as an evaluation batch of one, for ``predict``.

        Args:
            source: Image file.

        Returns:
            The batch, with ``pixels`` (H, W, 3) uint8, the original, and the class ``names``.

        Raises:
            OSError: If there is no such file.
            ValueError: If it cannot be decoded.
        """
        image = read_rgb(source)
        names = [str(one.get("name", one["id"])) for one in self._categories]
        return {**self._evaluation_batch(image), "pixels": np.array(image), "names": names}

    def write_prediction(self, stem: Path, batch: Any, prediction: Mapping[str, Any]) -> str:
        """Write all detections as ``.json``, in COCO's form of results.

        Args:
            stem: Path without ending.
            batch: From ``read_input``.
            prediction: ``boxes``, ``scores``, ``labels`` and ``counts``.

        Returns:
            What was found, in words.
        """
        found = records(prediction, self._categories, batch["pixels"].shape[:2])
        write_json(stem.with_name(f"{stem.name}.json"), found)
        return in_words(found)

    def example_inputs(self) -> list[str]:
        """Return three held-out images."""
        folder = store.image_folder(self.folder, "val")
        return [str(path) for path in sorted(folder.iterdir())[:3]]

    @property
    def _categories(self) -> list[dict[str, Any]]:
        """Categories in the order of the labels."""
        return self.evaluation_truth()["categories"]

    @abstractmethod
    def _evaluation_batch(self, image: Image.Image) -> dict[str, Any]:
        """Return the evaluation batch of one image."""

    @abstractmethod
    def _evaluation_loader(self, annotations: Annotations, indices: range) -> DataLoader[Any]:
        """Return a loader of some evaluation images."""

    @property
    def _prepared(self) -> Path:
        return self.prepared_dir or self.folder / store.PREPARED

    @property
    def _manifest(self) -> dict[str, Any]:
        """Counts of the prepared data set; read once."""
        if self._facts is None:
            self._facts = store.read_manifest(self.folder, self._prepared)
        if self._facts is None:
            raise ValueError(f"{self.folder} is not prepared; run the recipe's prepare command")
        return self._facts
