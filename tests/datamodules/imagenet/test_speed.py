"""Input pipeline against torchvision's: a ratio within one run on the same files, not a time."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from datamodules.common.sampling import EpochSampler
from datamodules.imagenet import prepare as builder
from datamodules.imagenet.files import Counts
from datamodules.imagenet.samples import TrainingImages, as_is
from tests.datamodules.imagenet.test_images import photo

MEAN = (123.68, 116.78, 103.94)
SIZES = ((500, 375), (375, 500), (500, 333), (500, 400))  # ImageNet's most frequent ones
COUNTS = Counts(2, 64, 2)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    contents = [photo(*size) for size in SIZES]
    for number in range(64):
        path = root / "train" / f"n{number % 2}" / f"n{number % 2}_{number}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents[number % len(contents)])
    for number in range(2):
        path = root / "val" / f"n{number}" / f"v{number}.JPEG"
        path.parent.mkdir(parents=True)
        path.write_bytes(photo(480, 360 + number))  # no training image: `prepare` refuses those
    builder.write_all_shards(root, root / "shards", COUNTS, processes=1, samples_per_shard=48)
    return root


def ours(root: Path) -> DataLoader:
    source = builder.open_source(root, root / "shards", "train", COUNTS)
    sampler = EpochSampler(64, 32, 0, 1, 32, seed=0)
    return DataLoader(TrainingImages(source, 224, 0), batch_sampler=sampler, collate_fn=as_is)


def torchvisions(root: Path) -> DataLoader:
    steps = [
        transforms.RandomResizedCrop(224, scale=(0.1, 1.0), ratio=(0.75, 1.33)),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize([m / 255 for m in MEAN], [1 / 255] * 3),
    ]
    folder = ImageFolder(root / "train", transforms.Compose(steps))
    return DataLoader(folder, batch_size=32, shuffle=True)


def normalised(loader: DataLoader) -> Iterable[torch.Tensor]:
    """Our batches with the module's share of the work, for a fair comparison."""
    mean = torch.tensor(MEAN).view(1, 3, 1, 1)
    for batch in loader:
        yield batch["image"].float().sub_(mean)


def seconds(batches: Iterable[object]) -> float:
    """Processor time, which other programs on the machine change less than the clock."""
    start = time.process_time()
    for _ in batches:
        pass
    return time.process_time() - start


@pytest.mark.speed
@pytest.mark.slow
def test_pipeline_is_half_again_as_fast_as_torchvisions(root: Path) -> None:
    mine, theirs = ours(root), torchvisions(root)
    seconds(normalised(mine)), seconds(theirs)
    pairs = [(seconds(normalised(mine)), seconds(theirs)) for _ in range(7)]
    mine_s, theirs_s = (min(side) for side in zip(*pairs, strict=True))
    print(f"{64 / mine_s:.0f} against {64 / theirs_s:.0f} images/s: {theirs_s / mine_s:.2f} x")
    assert theirs_s / mine_s >= 1.5
