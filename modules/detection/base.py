"""Base module of both detectors: pretrained backbone, COCO's average precision, the picture."""

from abc import abstractmethod
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar

from modules.common.base import BenchmarkModule
from modules.detection.coco_metric import CocoAP
from modules.detection.late_scores import LateScores
from modules.detection.picture import DetectionExample, save_detections, truth_of

NUM_EXAMPLES = 8


class DetectorModule(BenchmarkModule):
    """Train an object detector from a pretrained backbone."""

    title: ClassVar[str]  # of the picture
    weights_source: ClassVar[str]  # of the backbone's file, with its size and licence
    backbone_weights: Path | None  # file that the user named
    average_precision: CocoAP
    examples: list[DetectionExample]  # from the last evaluation's first images
    overlap_evaluation: bool
    late_metrics: "Future[dict[str, float]] | None" = None
    """The newest evaluation's values by name, if they are computed while training goes on."""
    _late_scores: LateScores | None = None

    def setup(self, stage: str) -> None:
        """Load the pretrained backbone before the clock starts, and check the classes."""
        if stage != "fit":
            return
        datamodule = getattr(self.trainer, "datamodule", None)
        if hasattr(self.net, "load_backbone") and not self.own_weights:
            self._load_backbone(datamodule)
        self._check_classes(datamodule)
        if self.overlap_evaluation:
            self._start_late_scores()

    def _start_late_scores(self) -> None:
        if self.trainer.world_size > 1:
            raise ValueError(
                "--model.overlap_evaluation works on one device only, as ranks would have to agree "
                "after every step; leave it out"
            )
        self._late_scores = LateScores()
        self._late_scores.start()

    def teardown(self, stage: str) -> None:
        if self._late_scores is not None:
            self._late_scores.close()
            self._late_scores = None

    def _load_backbone(self, datamodule: Any) -> None:
        path = self.backbone_weights or self.default_weights(datamodule)
        if path is None:
            return
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: the backbone starts from ImageNet weights; download "
                f"{self.weights_source} and save it there, or pass another file with "
                "--model.backbone_weights"
            )
        load: Any = self.net.load_backbone
        weights = self.read_weights(path)
        try:
            load(weights)
        except ValueError as error:
            raise ValueError(
                f"{path} does not fit the network: {error}; a network of another width needs "
                "weights of its own, by --model.backbone_weights or --init_weights"
            ) from error
        if bad := [name for name, x in self.net.state_dict().items() if not x.isfinite().all()]:
            raise ValueError(f"{path} has values that are not finite in {bad[0]}; use another file")

    def _check_classes(self, datamodule: Any) -> None:
        classes = getattr(self.net, "num_classes", None)
        categories = getattr(datamodule, "num_categories", None)
        if classes is not None and categories is not None and classes != categories + 1:
            raise ValueError(
                f"the network has {classes} classes including background, the data has "
                f"{categories} categories; set --model.net.num_classes {categories + 1} (anything "
                "but 81 is open division)"
            )

    @abstractmethod
    def default_weights(self, datamodule: Any) -> Path | None:
        """Return the file to start from when none is named, None for random weights."""

    @abstractmethod
    def read_weights(self, path: Path) -> Any:
        """Read the backbone's file for the network's ``load_backbone``."""

    def on_validation_epoch_start(self) -> None:
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.average_precision.begin(datamodule.evaluation_truth())
        self.examples = []
        self.late_metrics = None

    def on_validation_epoch_end(self) -> None:
        if self._late_scores is not None:
            self.late_metrics = self._late_scores.submit(self.average_precision)
            self.average_precision.reset()
            return
        values = self.average_precision.compute()
        self.average_precision.reset()
        # The values are already those of all ranks; averaging could change the last bit.
        self.log_dict({f"val/{name}": value for name, value in values.items()}, sync_dist=False)

    def draw_prediction(
        self, path: Path, batch: Mapping[str, Any], prediction: Mapping[str, Any]
    ) -> None:
        """Draw the boxes, and masks where there are any, that were found in one image.

        Args:
            path: PNG file to write.
            batch: Has ``pixels`` (H, W, 3) uint8, the original image, and the class ``names``.
            prediction: From ``predict_step``.
        """
        box = prediction["boxes"].copy()
        box[:, 2:] += box[:, :2]
        one = DetectionExample(
            batch["pixels"], box, prediction["scores"], prediction["labels"], prediction["masks"]
        )
        save_detections(path, [one], batch["names"], path.stem)

    def write_artifacts(self, folder: Path) -> None:
        """Write ``detections.png``: truth and detections of the last evaluation's first images.

        Args:
            folder: The run's directory.
        """
        truth = self.average_precision.truth
        names = [str(category.get("name", category["id"])) for category in truth["categories"]]
        truths = [truth_of(one, truth) for one in self.examples]
        title = f"{self.title} on held-out images"
        save_detections(folder / "detections.png", self.examples, names, title, truths)
