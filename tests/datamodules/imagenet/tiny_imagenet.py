"""A few texture images in ImageNet's layout, for tests."""

from __future__ import annotations

from pathlib import Path

from datamodules.imagenet.demo import write_images
from datamodules.imagenet.files import Counts

TRAIN, VAL = 13, 3  # per class: enough for the CMYK and the PNG image
COUNTS = Counts(10, 10 * TRAIN, 10 * VAL)
SETTINGS = {"num_classes": 10, "num_train": COUNTS.train, "num_val": COUNTS.val, "image_size": 64}


def write_tiny(folder: Path) -> Path:
    """Write 130 training and 30 evaluation images."""
    write_images(folder, TRAIN, VAL)
    return folder


def flatten_val(folder: Path) -> Path:
    """Turn val's synset folders into a flat folder with a labels file."""
    pairs = sorted((path.name, path.parent.name) for path in (folder / "val").glob("*/*"))
    for name, synset in pairs:
        (folder / "val" / synset / name).rename(folder / "val" / name)
    for path in [p for p in (folder / "val").iterdir() if p.is_dir()]:
        path.rmdir()
    labels = folder / "imagenet_2012_validation_synset_labels.txt"
    labels.write_text("".join(f"{synset}\n" for _, synset in pairs))
    return folder
