"""Data sets of the real layout and the real numbers, whose items are hard links to a tiny file.

``share`` scales every number. Equal items are no fault here: names and texts differ.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from datamodules.c4.indexed import Pair, write_index
from datamodules.c4.published import SPLITS, VOCABULARY
from datamodules.coco.published import CATEGORY_IDS, COUNTS
from datamodules.criteo.demo import category_words, generate_day, write_day
from datamodules.criteo.store import DAY_ROWS
from datamodules.criteo.text import NUM_TABLES
from datamodules.librispeech.subsets import UTTERANCES

LINKS = 50_000  # of one file; ext4 allows 65,000
IMAGENET = {"train": 1_281_167, "val": 50_000}
CLASSES, SIDE = 1000, 64
CHAPTER_UTTERANCES = 50
WORDS, WORDS_PER_UTTERANCE = 89_000, 33  # as in LibriSpeech
SHAPES, CORNERS, CROWD_SHARE = 500, 26, 0.012  # of COCO's annotations, by their mean bytes
BLOCK_ROWS = 20_000


def links(source: Path) -> Iterator[Callable[[Path], None]]:
    """Yield without end what links a new name to a file, or to a copy after ``LINKS`` names."""
    number = 0
    while True:
        copy = source
        if number % LINKS == 0:
            copy = source.with_name(f"{number // LINKS}-{source.name}")
            copy.write_bytes(source.read_bytes())
        for _ in range(LINKS):
            number += 1
            yield lambda target, copy=copy: os.link(copy, target)  # type: ignore[misc]


def parts(total: int, share: float, of: int) -> list[int]:
    """Divide a share of a total evenly."""
    count = max(of, round(total * share))
    return [count * (k + 1) // of - count * k // of for k in range(of)]


def write_imagenet(folder: Path, share: float) -> int:
    """Write 1,000 class directories; return the number of images."""
    number = 0
    for split, total in IMAGENET.items():
        source = folder / f"{split}.jpg"
        shade = 100 if split == "train" else 200
        Image.new("RGB", (16, 16), (shade, 50, 50)).save(source)
        link = links(source)
        for label, count in enumerate(parts(total, share, CLASSES)):
            synset = folder / split / f"n{label:08d}"
            synset.mkdir(parents=True)
            for _ in range(count):
                next(link)(synset / f"ILSVRC2012_{split}_{number:08d}.JPEG")
                number += 1
    return number


def write_librispeech(folder: Path, share: float) -> int:
    """Write the four subsets, 0.1 s each with a text of the usual length; return the number."""
    rng, number = np.random.default_rng(1), 0
    words = [_word(rng) for _ in range(WORDS)]
    frequency = 1 / np.arange(3, WORDS + 3)
    for place, (subset, total) in enumerate(UTTERANCES.items()):
        source = folder / f"{subset}.flac"
        soundfile.write(source, rng.integers(-9000, 9000, 1600).astype(np.int16), 16_000)
        link, count = links(source), round(total * share)
        for first in range(0, count, CHAPTER_UTTERANCES):
            speaker, chapter = 10 + place, 1 + first // CHAPTER_UTTERANCES
            inner, lines = folder / subset / str(speaker) / str(chapter), []
            inner.mkdir(parents=True)
            size = min(CHAPTER_UTTERANCES, count - first)
            shape = (size, WORDS_PER_UTTERANCE)
            drawn = rng.choice(WORDS, shape, p=frequency / frequency.sum())
            for place_in_chapter, row in enumerate(drawn.tolist()):
                key = f"{speaker}-{chapter}-{place_in_chapter:04d}"
                next(link)(inner / f"{key}.flac")
                lines.append(f"{key} {' '.join(words[w] for w in row)}\n")
            (inner / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines))
            number += size
    return number


def _word(rng: np.random.Generator) -> str:
    """Draw a word of one to four syllables."""
    starts, vowels, ends = "BCDFGHKLMNPRSTVW", "AEIOU", ["", "N", "R", "S", "T", "LY"]
    syllables = [rng.choice([*starts]) + rng.choice([*vowels]) for _ in range(rng.integers(1, 5))]
    return "".join(syllables) + str(rng.choice(ends))


def write_coco(folder: Path, share: float) -> int:
    """Write both splits, annotations of the usual length; return their number."""
    rng = np.random.default_rng(1)
    shapes = [_outline(rng) for _ in range(SHAPES)]
    (folder / "annotations").mkdir()
    for split, counts in COUNTS.items():
        source, images = folder / f"{split}.jpg", folder / f"{split}2017"
        Image.new("RGB", (SIDE, SIDE), (100 if split == "train" else 200, 50, 50)).save(source)
        images.mkdir()
        used, link = max(4, round(counts["images"] * share)), links(source)
        for number in range(used):
            next(link)(images / f"{number:012d}.jpg")
        annotations = round(counts["annotations"] * share)
        path = folder / "annotations" / f"instances_{split}2017.json"
        _write_annotations(path, used, annotations, shapes)
    return sum(round(counts["annotations"] * share) for counts in COUNTS.values())


def _outline(rng: np.random.Generator) -> str:
    """Draw a polygon around the image's centre: an annotation's mask, area and box as JSON."""
    angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    radius = rng.uniform(8, 14) + rng.uniform(-3, 3, CORNERS)
    corners = SIDE / 2 + np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    corners = corners.round(2)
    low, size = corners.min(0), np.ptp(corners, axis=0).round(2)
    box, area = json.dumps([*low.tolist(), *size.tolist()]), round(float(np.prod(size)) * 0.7, 4)
    ring = json.dumps([corners.ravel().tolist()])
    return f'"segmentation": {ring}, "area": {area}, "iscrowd": 0, "bbox": {box}'


def _write_annotations(path: Path, images: int, annotations: int, shapes: list[str]) -> None:
    runs = [SIDE * 20 + 20, *[20, SIDE - 20] * 23, 20]
    runs.append(SIDE * SIDE - sum(runs))
    mask = json.dumps({"counts": runs, "size": [SIDE, SIDE]})
    crowd = f'"segmentation": {mask}, "area": 480, "iscrowd": 1, "bbox": [20, 20, 24, 20]'
    with path.open("w") as file:
        file.write('{"info": {"year": 2017}, "images": [')
        for n in range(images):
            size = f'"height": {SIDE}, "width": {SIDE}'
            file.write(f'{", " * (n > 0)}{{"file_name": "{n:012d}.jpg", {size}, "id": {n}}}')
        file.write('], "annotations": [')
        for n in range(annotations):
            shape = crowd if n % round(1 / CROWD_SHARE) == 9 else shapes[n % len(shapes)]
            owner, kind = n * 7 % images, CATEGORY_IDS[n % len(CATEGORY_IDS)]
            ids = f'"image_id": {owner}, "category_id": {kind}, "id": {n}'
            file.write(f"{', ' * (n > 0)}{{{shape}, {ids}}}")
        names = [{"id": n, "name": f"kind {n}"} for n in CATEGORY_IDS]
        file.write(f'], "categories": {json.dumps(names)}}}')


def write_criteo(folder: Path, share: float) -> int:
    """Write 24 days, whose rows repeat but for one number; return the number of rows."""
    words, total = [category_words(column) for column in range(NUM_TABLES)], 0
    block = folder / "block"
    for number, rows in enumerate(DAY_ROWS):
        count = max(2, round(rows * share))
        write_day(block, generate_day(number, min(BLOCK_ROWS, count)), words)
        lines = [line.split(b"\t", 2) for line in block.read_bytes().splitlines()]
        with (folder / f"day_{number}").open("wb") as file:
            for first in range(0, count, len(lines)):
                used = lines[: count - first]
                file.writelines(b"%b\t%d\t%b\n" % (a, first + number, c) for a, _, c in used)
        total += count
    block.unlink()
    return total


def write_c4(folder: Path, share: float) -> int:
    """Write token files of documents of a few tokens each; return the number of documents."""
    rng, total = np.random.default_rng(1), 0
    for split in SPLITS.values():
        pair, documents = Pair.of(folder / split.stem), max(30_000, round(split.documents * share))
        lengths = rng.integers(1, 8, documents).astype(np.int32)
        ids = rng.integers(0, VOCABULARY, int(lengths.sum()), dtype=np.int32)
        if split.documents == SPLITS["validation"].documents:  # enough for an evaluation
            ids = np.resize(ids, 1025 * 8192)
            lengths[-1] += ids.size - lengths.sum()
        pair.bin.write_bytes(ids.data)
        write_index(pair.idx, "int32", lengths)
        total += documents
    return total


WORLDS: dict[str, tuple[str, Callable[[Path, float], int]]] = {
    "imagenet": ("images", write_imagenet),
    "librispeech": ("utterances", write_librispeech),
    "coco": ("annotations", write_coco),
    "criteo": ("rows", write_criteo),
    "c4": ("documents", write_c4),
}
