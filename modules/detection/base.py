"""What SSD and Mask R-CNN share: pretrained backbone, COCO's average precision, the picture."""

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from modules.common.base import BenchmarkModule
from modules.detection.coco_metric import CocoAP
from modules.detection.picture import Shown, save_detections

SHOWN_IMAGES = 12


class DetectorModule(BenchmarkModule):
    """Trains an object detector from a pretrained backbone.

    Attributes:
        title: The benchmark's name on the picture.
        weights_source: Where the backbone's file comes from, its size and licence.
        backbone_weights: File that the user named, or None.
        average_precision: The metric.
        shown: First images of the evaluation, with what was found in them.
    """

    title: ClassVar[str]
    weights_source: ClassVar[str]
    backbone_weights: Path | None
    average_precision: CocoAP
    shown: list[Shown]

    def setup(self, stage: str) -> None:
        """Load the pretrained backbone, before the clock starts, and compare the classes.

        Args:
            stage: Lightning's word for the command.

        Raises:
            FileNotFoundError: If the reference network has no weights to start from.
            ValueError: If the file is damaged or does not fit the network, or the network's
                classes are not those of the data.
        """
        if stage != "fit":
            return
        datamodule = getattr(self.trainer, "datamodule", None)
        if hasattr(self.net, "load_backbone"):
            self._load_backbone(datamodule)
        self._refuse_other_classes(datamodule)

    def _load_backbone(self, datamodule: Any) -> None:
        """Start from the file that the user named, or from the default one."""
        path = self.backbone_weights or self.default_weights(datamodule)
        if path is None:
            return
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: the backbone starts from ImageNet weights; download "
                f"{self.weights_source} to there or name another file with --model.backbone_weights"
            )
        load: Any = self.net.load_backbone
        load(self.read_weights(path))

    def _refuse_other_classes(self, datamodule: Any) -> None:
        """Refuse a network whose classes are not the data's categories and background."""
        classes = getattr(self.net, "num_classes", None)
        categories = getattr(datamodule, "num_categories", None)
        if classes is not None and categories is not None and classes != categories + 1:
            raise ValueError(
                f"the network has {classes} classes with background, the data has {categories} "
                f"categories; give --model.net.num_classes {categories + 1} (another number than "
                "81 is open division)"
            )

    @abstractmethod
    def default_weights(self, datamodule: Any) -> Path | None:
        """File that the backbone starts from when none is named.

        Args:
            datamodule: The trainer's data module, or None.

        Returns:
            The file, or None to start from random weights.
        """

    @abstractmethod
    def read_weights(self, path: Path) -> Any:
        """Read the backbone's file.

        Args:
            path: An existing file.

        Returns:
            What the network's ``load_backbone`` takes.
        """

    def on_validation_epoch_start(self) -> None:
        """Begin a new evaluation."""
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.average_precision.begin(datamodule.evaluation_truth())
        self.shown = []

    def on_validation_epoch_end(self) -> None:
        """Log each average precision over all images, equal on every rank."""
        values = self.average_precision.compute()
        self.average_precision.reset()
        # The values are already those of all ranks; averaging could change the last bit.
        self.log_dict({f"val/{name}": value for name, value in values.items()}, sync_dist=False)

    def write_artifacts(self, folder: Path) -> None:
        """Write ``detections.png``: the last evaluation's first images with what was found.

        Args:
            folder: The run folder.
        """
        categories = self.average_precision.truth["categories"]
        names = [str(category.get("name", category["id"])) for category in categories]
        title = f"{self.title} on held-out images"
        save_detections(folder / "detections.png", self.shown, names, title)
