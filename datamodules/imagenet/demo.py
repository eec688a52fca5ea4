"""Textures as JPEG files in ImageNet's layout: ten classes that colour does not tell apart.

Each image is a function of its split, class and number alone. One training image is CMYK and one a
PNG, both named .JPEG, as ImageNet has them.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from datamodules.imagenet.files import Counts

VERSION = "1"  # raise it whenever the written bytes change
TRAIN_PER_CLASS, VAL_PER_CLASS = 100, 30
SMALLEST, LARGEST = 80, 140  # pixels of a side
SHORTEST_PERIOD, LONGEST_PERIOD = 12.0, 20.0  # pixels
NOISE_LEVELS, QUALITY = 8.0, 90
LEAST_CONTRAST = 100  # levels between the two colours, in one channel at least
STREAM = 20120901  # keeps these draws apart from every other use of the numbers
CMYK_IMAGE, PNG_IMAGE = ("train", 2, 5), ("train", 7, 11)  # split, class, number

Pattern = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def _square(phase: np.ndarray) -> np.ndarray:
    return np.sin(phase) > 0


def _noise(y: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.random(y.shape)


def _blocks(y: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw squares of half a period, each light or dark by chance."""
    rows = np.floor((y - y.min()) / np.pi).astype(int)
    columns = np.floor((x - x.min()) / np.pi).astype(int)
    return rng.integers(0, 2, (rows.max() + 1, columns.max() + 1))[rows, columns].astype(float)


# y and x in radians: one period of the texture is 2 pi.
PATTERNS: tuple[Pattern, ...] = (
    lambda y, x, rng: _square(x),  # vertical stripes
    lambda y, x, rng: _square(y),  # horizontal stripes
    lambda y, x, rng: _square((x + y) / 2**0.5),  # diagonal stripes
    lambda y, x, rng: np.sin(x * 0.7) * np.sin(y * 0.7) > 0,  # checks
    lambda y, x, rng: _square(np.hypot(y - y.mean(), x - x.mean())),  # rings
    lambda y, x, rng: np.cos(x * 0.8) + np.cos(y * 0.8) > 0.8,  # dots
    lambda y, x, rng: np.maximum(np.cos(x), np.cos(y)) > 0.8,  # grid
    lambda y, x, rng: _square(y + 2 * np.sin(x / 2)),  # waves
    _noise,
    _blocks,
)
NAMES = (
    "vertical stripes", "horizontal stripes", "diagonal stripes", "checks", "rings", "dots", "grid",
    "waves", "noise", "blocks",
)  # fmt: skip
COUNTS = Counts(len(PATTERNS), len(PATTERNS) * TRAIN_PER_CLASS, len(PATTERNS) * VAL_PER_CLASS)


def write_textures(folder: Path) -> None:
    """Write the demo data set, and its shards as ``prepare`` writes them."""
    from datamodules.imagenet.prepare import write_all_shards

    write_images(folder, TRAIN_PER_CLASS, VAL_PER_CLASS)
    write_all_shards(folder, folder / "finishline-imagenet", COUNTS, processes=1)


def write_images(folder: Path, train_per_class: int, val_per_class: int) -> None:
    """Write both splits in synset folders."""
    for number in range(len(PATTERNS)):
        synset = f"n{number + 1:08d}"
        for split, count in (("train", train_per_class), ("val", val_per_class)):
            (folder / split / synset).mkdir(parents=True)
            for k in range(count):
                # Evaluation files are numbered across classes, as in ImageNet.
                across = number + 1 + k * len(PATTERNS)
                name = f"{synset}_{k}" if split == "train" else f"ILSVRC2012_val_{across:08d}"
                _save(folder / split / synset / f"{name}.JPEG", split, number, k)


def texture(split: str, class_number: int, number: int) -> np.ndarray:
    """Draw one image: image_HW3, uint8 RGB, 80 to 140 pixels a side."""
    rng = np.random.default_rng([STREAM, split == "val", class_number, number])
    height, width = rng.integers(SMALLEST, LARGEST + 1, 2)
    scale = 2 * np.pi / rng.uniform(SHORTEST_PERIOD, LONGEST_PERIOD)
    y, x = np.mgrid[:height, :width] * scale
    pattern_HW = PATTERNS[class_number](y + rng.uniform(0, 6.3), x + rng.uniform(0, 6.3), rng)
    dark, light = _colours(rng)
    mixed_HW3 = dark + (light - dark) * pattern_HW[..., None]
    mixed_HW3 += rng.normal(0, NOISE_LEVELS, mixed_HW3.shape)
    return mixed_HW3.clip(0, 255).astype(np.uint8)


def _colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw two colours that differ by more than the noise."""
    while True:
        first, second = rng.uniform(0, 255, (2, 3))
        if np.abs(first - second).max() >= LEAST_CONTRAST:
            return first, second


def _save(path: Path, split: str, class_number: int, number: int) -> None:
    from PIL import Image

    image = Image.fromarray(texture(split, class_number, number))
    if (split, class_number, number) == CMYK_IMAGE:
        image = image.convert("CMYK")
    form = "PNG" if (split, class_number, number) == PNG_IMAGE else "JPEG"
    image.save(path, form, quality=QUALITY)
