"""SSD on COCO: detect objects of 80 classes in 300 x 300 pixels (MLPerf Training v1.0 "ssd").

Target    box AP >= 0.230 (COCO AP, IoU 0.50:0.95) on 5,000 held-out images
Data      COCO 2017, 117,266 annotated training images, 20 GB (cocodataset.org)
Start     ResNet-34 trained on ImageNet: DIR/resnet34-333f7ec4.pth (download.pytorch.org/models)
Network   SSD-ResNet34, 19,972,534 parameters
Expect    demo: 0.8 min (worst 1.4); closed division: about 50 epochs at batch 1024

    python recipes/ssd.py fit                                        demo, no download
    python recipes/ssd.py predict --ckpt_path RUN IMAGE...           find objects
    python recipes/ssd.py prepare --data.root DIR                    check COCO, compact annotations
    python recipes/ssd.py fit --data.root DIR                        closed reference
    python recipes/ssd.py fit --data.root DIR --model.net my.Net     open division
    python recipes/ssd.py fit --config recipes/presets/ssd/h100x1.yaml --data.root DIR
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipes.cli.benchmark import Benchmark, Needs, Rule
from recipes.cli.main import main

# The start of their SHA-256 is in the names of torchvision's files; the second holds the same
# weights in the format of later versions.
BACKBONES = ("resnet34-333f7ec4.pth", "resnet34-b627a593.pth")


def starts_from_imagenet(weights: Path | None, config: Mapping[str, Any]) -> bool:
    """Whether the backbone's file is torchvision's; one that is missing is reported elsewhere."""
    path = Path(weights or Path(config["data.root"] or ".") / BACKBONES[0])
    if not path.is_file():
        return True
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return digest[:8] in [Path(name).stem.rpartition("-")[2] for name in BACKBONES]


BENCHMARK = Benchmark(
    name="ssd",
    area="object detection, light",
    dataset="COCO 2017",
    module="modules.ssd.SSDModule",
    datamodule="datamodules.coco.COCO300DataModule",
    metrics={"box_ap": 0.230},
    mode="max",
    runs=5,
    dropped=1,
    # The rules' epochs: 40, 50, 55, 60, ... up to the last that a reference run needed.
    evaluation={"at": (40,), "first": 50, "every": 5, "limit": 100},
    closed=(
        Rule("data.crop_attempts", "max_samples is 1 or 50", allows=lambda value: value in (1, 50)),
        Rule("model.momentum", "opt_momentum is fixed at 0.9"),
        Rule(
            "model.decay_boundary_epochs",
            "opt_learning_rate_decay_boundary_epochs is [40, 50] * (1 + k / 10) with a whole k",
            allows=lambda value: (
                len(value) == 2
                and 4 * value[1] == 5 * value[0]
                and value[0] % 4 == 0
                and value[0] > 0
            ),
        ),
        Rule(
            "model.backbone_weights",
            f"its file (by default DIR/{BACKBONES[0]}) must be torchvision's by its SHA-256",
            goes_with=starts_from_imagenet,
        ),
    ),
    needs=Needs(
        download_gb=20.5,
        prepared_gb=0.5,
        checkpoint_gb=0.16,
        published_minutes=8.5,
        source="sizes of the archives on images.cocodataset.org",
    ),
    built_for_torch=("torchvision",),
    predicts="image -> boxes (.json) and picture",
    source="mlcommons/training (v1.0) single_stage_detector/ssd; training_rules.adoc v1.0",
)

if __name__ == "__main__":
    main(BENCHMARK, __doc__)
