"""ResNet-50 on ImageNet: classify photographs (MLPerf Training v1.0 "resnet").

Target    top-1 accuracy >= 0.759 over all 50,000 evaluation images
Data      ImageNet (ILSVRC-2012), 1,281,167 training images, 155 GB (image-net.org, free account,
          non-commercial research only)
Network   ResNet-50 v1.5, 25,557,032 parameters, about 25 GFLOP per training image
Expect    demo: 0.4 min (worst 0.6); closed division: 35 epochs at a batch of 3264

    python recipes/resnet.py fit                                        demo, no download
    python recipes/resnet.py predict --ckpt_path RUN IMAGE...           name their classes
    python recipes/resnet.py prepare --data.root DIR                    check images, write shards
    python recipes/resnet.py fit --data.root DIR                        closed reference
    python recipes/resnet.py fit --data.root DIR --model.net my.Net     open division
    python recipes/resnet.py fit --config recipes/presets/resnet/h100x1.yaml --data.root DIR
"""

import math

from recipes.cli.benchmark import Benchmark, Needs, Rule
from recipes.cli.main import main


def power_of_two_decay(weight_decay: float) -> bool:
    """Whether the log's checker accepts a weight decay: 1e-4 times a whole power of two."""
    return weight_decay > 0 and abs(math.log2(weight_decay / 1e-4) % 1.0 - 0.5) > 0.49999


BENCHMARK = Benchmark(
    name="resnet",
    area="image classification",
    dataset="ImageNet",
    module="modules.resnet.ResNetModule",
    datamodule="datamodules.imagenet.ImageNetDataModule",
    metrics={"accuracy": 0.759},
    mode="max",
    runs=5,
    dropped=1,
    # Every 4 epochs from an offset of 1 to 4; with 3 epoch 35 is one, where this batch converges.
    # The schedule's 37 epochs are rounded up to an evaluation.
    evaluation={"first": 3, "every": 4, "limit": 39},
    closed=(
        Rule("data.image_size", "images are 224 pixels"),
        Rule("data.num_classes", "ImageNet has 1000 classes", lambda n: n in (None, 1000)),
        Rule(
            "data.num_train",
            "ImageNet has 1,281,167 training images",
            lambda n: n in (None, 1_281_167),
        ),
        Rule(
            "data.num_val", "ImageNet has 50,000 evaluation images", lambda n: n in (None, 50_000)
        ),
        # The offset of the evaluations and the number of epochs are the submitter's choice.
        Rule(
            "evaluation.first",
            "evaluation starts at epoch 1, 2, 3 or 4",
            lambda e: e in (1, 2, 3, 4),
        ),
        Rule("evaluation.limit", "any number of epochs", lambda limit: limit > 0),
        Rule("model.label_smoothing", "label smoothing is 0 or 0.1", lambda e: e in (0, 0.1)),
        Rule("model.weight_decay", "weight decay is 0.0001 * 2^N", power_of_two_decay),
    ),
    # 8 times 408 images make the batch of 3264 on one device; with eight, set it to 1.
    trainer={"accumulate_grad_batches": 8},
    needs=Needs(
        download_gb=155,
        prepared_gb=155,
        checkpoint_gb=0.2,
        published_minutes=28.8,
        source="sizes of the two archives; prepare copies every image",
    ),
    built_for_torch=("torchvision",),
    predicts="image -> class (.json)",
    source="mlcommons/training image_classification/tensorflow2 (v1.0); training_rules.adoc v1.0",
)

if __name__ == "__main__":
    main(BENCHMARK, __doc__)
