"""Mask R-CNN on COCO: boxes and outlines of objects of 80 classes (MLPerf v1.0 "maskrcnn").

Target    box AP >= 0.377 and mask AP >= 0.339 in the same evaluation of 5,000 held-out images
Data      COCO 2017, 117,266 annotated training images, 20 GB (cocodataset.org)
Start     ResNet-50 trained on ImageNet: DIR/R-50.pkl (Detectron's model zoo, MSRA)
Network   Mask R-CNN, ResNet-50 with feature pyramid, 44,347,573 parameters
Expect    demo: about 1 minute on 2 CPU cores; closed division: about 14 epochs at batch 96

    python recipes/maskrcnn.py fit                                      demo, no download
    python recipes/maskrcnn.py predict --ckpt_path RUN IMAGE...         find and outline objects
    python recipes/maskrcnn.py prepare --data.root DIR                  check COCO
    python recipes/maskrcnn.py fit --data.root DIR                      closed reference
    python recipes/maskrcnn.py fit --data.root DIR --model.net my.Net   open division
    python recipes/maskrcnn.py fit --config recipes/presets/maskrcnn/h100x1.yaml --data.root DIR
"""

from recipes.cli.benchmark import Benchmark, Needs, Rule
from recipes.cli.main import main

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
            "opt_learning_rate_decay_steps is (60000, 80000) * (1 + K / 10) * 16 / batch",
            # Both are rounded to whole steps, so the ratio of 3 to 4 is approximate.
            allows=lambda value: len(value) == 2 and abs(4 * value[0] - 3 * value[1]) <= 8,
        ),
    ),
    needs=Needs(
        download_gb=20.5,
        prepared_gb=0.5,
        demo_minutes=0.6,
        published_minutes=50.4,
        source="sizes of the archives on images.cocodataset.org",
    ),
    predicts="image -> boxes, masks (.json) and picture",
    source="mlcommons/training (v1.0) object_detection/pytorch; training_rules.adoc v1.0",
)

if __name__ == "__main__":
    main(BENCHMARK, __doc__)
