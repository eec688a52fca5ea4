"""Mask R-CNN on COCO: boxes and outlines of objects of 80 classes (MLPerf v1.0 "maskrcnn").

Target    box AP >= 0.377 and mask AP >= 0.339 in the same evaluation of 5,000 held-out images
Data      COCO 2017, 117,266 annotated training images, 20 GB (cocodataset.org)
Start     ResNet-50 trained on ImageNet: DIR/R-50.pkl (Detectron's model zoo, MSRA)
Network   Mask R-CNN, ResNet-50 with feature pyramid, 44,347,573 parameters
Expect    demo: 0.4 min (worst 0.5); closed division: about 14 epochs at batch 96

    python recipes/maskrcnn.py fit                                      demo, no download
    python recipes/maskrcnn.py predict --ckpt_path RUN IMAGE...         find and outline objects
    python recipes/maskrcnn.py prepare --data.root DIR                  check COCO
    python recipes/maskrcnn.py fit --data.root DIR                      closed reference
    python recipes/maskrcnn.py fit --data.root DIR --model.net my.Net   open division
    python recipes/maskrcnn.py fit --config recipes/presets/maskrcnn/h100x1.yaml --data.root DIR
"""

from collections.abc import Mapping, Sequence
from typing import Any

from recipes.cli.benchmark import Benchmark, Needs, Rule
from recipes.cli.division import global_batch
from recipes.cli.main import main

DECAY_STEPS = (60_000, 80_000)  # at a batch of 16 images and K = 0


def fit_the_batch(steps: Sequence[int], config: Mapping[str, Any]) -> bool:
    """Whether one whole K gives both decay steps at the batch in use, rounded up or down."""
    if len(steps) != 2:
        return False
    tenths = [step * 16 / global_batch(config) / 10 for step in DECAY_STEPS]
    factor = round(steps[0] / tenths[0])  # 10 + K
    return factor > 0 and all(
        abs(step - factor * tenth) < 1 for step, tenth in zip(steps, tenths, strict=True)
    )


BENCHMARK = Benchmark(
    name="maskrcnn",
    area="object detection and instance segmentation, heavy",
    dataset="COCO 2017",
    module="modules.maskrcnn.MaskRCNNModule",
    datamodule="datamodules.coco.COCOMaskDataModule",
    metrics={"box_ap": 0.377, "mask_ap": 0.339},
    quality_names={"box_ap": "BBOX", "mask_ap": "SEGM"},
    mode="max",
    runs=5,
    dropped=1,
    evaluation={"every": 1, "limit": 26},
    # Images differ in size and in their number of objects: each shape would be timed on the clock.
    warmup={"cudnn_benchmark": False},
    closed=(
        Rule("data.min_image_size", "min_image_size is fixed at 800"),
        Rule("data.max_image_size", "max_image_size is fixed at 1333"),
        Rule("model.momentum", "opt_momentum is fixed at 0.9"),
        Rule("model.weight_decay", "opt_weight_decay is fixed at 0.0001"),
        Rule(
            "model.learning_rate",
            "opt_base_learning_rate is 0.02 times a whole number",
            allows=lambda value: value > 0 and abs(value / 0.02 - round(value / 0.02)) < 1e-9,
        ),
        Rule(
            "model.decay_steps",
            "opt_learning_rate_decay_steps is (60000, 80000) * (1 + K / 10) * 16 / batch with a "
            "whole K",
            goes_with=fit_the_batch,
        ),
    ),
    needs=Needs(
        download_gb=20.5,
        prepared_gb=0.5,
        checkpoint_gb=0.36,
        published_minutes=50.4,
        source="sizes of the archives on images.cocodataset.org",
    ),
    built_for_torch=("torchvision",),
    predicts="image -> boxes, masks (.json) and picture",
    source="mlcommons/training (v1.0) object_detection/pytorch; training_rules.adoc v1.0",
)

if __name__ == "__main__":
    main(BENCHMARK, __doc__)
