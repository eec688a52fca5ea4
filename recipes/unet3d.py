"""3D U-Net on KiTS19: segment kidneys and tumours in CT volumes (MLPerf Training v1.0 "unet3d").

Target    mean Dice >= 0.908 over 42 held-out volumes, each with the same weight
Data      KiTS19, 210 labelled cases, about 30 GB raw (github.com/neheller/kits19, CC BY-NC-SA 4.0)
Network   3D U-Net, 31,190,243 parameters, about 2.9 TFLOP per training sample
Expect    demo: 0.4 min (worst 0.5); closed division: about 2,200 epochs of 168 samples

    python recipes/unet3d.py fit                                        demo, no download
    python recipes/unet3d.py predict --ckpt_path RUN CT.nii.gz          mask kidneys and tumours
    python recipes/unet3d.py prepare --data.root DIR                    check and preprocess KiTS19
    python recipes/unet3d.py fit --data.root DIR                        closed reference
    python recipes/unet3d.py fit --data.root DIR --model.net my.Net     open division
    python recipes/unet3d.py fit --config recipes/presets/unet3d/h100x1.yaml --data.root DIR
"""

from recipes.cli.benchmark import Benchmark, Needs, Rule
from recipes.cli.main import main

BENCHMARK = Benchmark(
    name="unet3d",
    area="medical image segmentation",
    dataset="KiTS19",
    module="modules.unet3d.UNet3DModule",
    datamodule="datamodules.kits19.KiTS19DataModule",
    metrics={"mean_dice": 0.908},
    mode="max",
    runs=40,
    dropped=4,
    # First evaluation after 1000 * 168 samples, then every 20 * 168, up to 10000 * 168, each
    # rounded up to whole epochs of the padded length.
    evaluation={"first": 168_000, "every": 3_360, "limit": 1_680_000, "unit": "samples"},
    closed=(
        Rule("data.oversampling", "training_oversampling is fixed at 0.4"),
        Rule("data.crop_size", "training_input_shape is fixed at 128, 128, 128"),
        Rule("model.validation_input_shape", "evaluation_input_shape is fixed at 128, 128, 128"),
        Rule("model.validation_overlap", "evaluation_overlap is fixed at 0.5"),
    ),
    needs=Needs(
        download_gb=30,
        prepared_gb=29,
        checkpoint_gb=0.25,
        published_minutes=29.2,
        source="github.com/neheller/kits19; prepared size from NVIDIA's reader",
    ),
    predicts="CT volume (.nii, .nii.gz) -> mask (.nii.gz) and picture",
    source="mlcommons/training @ 9947bdf2 image_segmentation/pytorch; training_rules.adoc v1.0",
)

if __name__ == "__main__":
    main(BENCHMARK, __doc__)
