"""Prepare ImageNet for training: shards, or a listing of plain files."""

import hashlib
import json
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.common.cache import build_once
from datamodules.common.preparation import preparing, unwritable
from datamodules.common.records import raw_file
from datamodules.common.shard_writer import Loaded, Plan, write_shards
from datamodules.common.shards import UnfinishedError, damaged_shards, has_shards, read_manifest
from datamodules.imagenet.files import Counts, Files, labels_of_flat_val, scan
from datamodules.imagenet.jpeg import check_decodable, standard_jpeg
from datamodules.imagenet.sources import (
    DATASET,
    FIELDS,
    FileSource,
    ImageSource,
    ShardSource,
    write_listing,
)

SPLITS = ("train", "val")
FORMAT = 1
SAMPLES_PER_SHARD = 10_000  # about 1.1 GB


def open_source(root: Path, prepared: Path, split: str, counts: Counts) -> ImageSource:
    """Open a split's images: from shards where there are any, else from the files."""
    if has_shards(prepared, split):
        return ShardSource(prepared, split, counts)
    return FileSource(root, listing_folder(root, prepared, counts), split)


def synsets(root: Path, prepared: Path, counts: Counts) -> list[str]:
    """Return the class directories' names by class number, of shards or of a listing."""
    if has_shards(prepared, "val"):
        return list(read_manifest(prepared, "val", DATASET)["facts"]["synsets"])
    path = listing_folder(root, prepared, counts) / "synsets.json"
    if not path.is_file():
        raise ValueError(f"{prepared} is not prepared; run the recipe's prepare command")
    return list(json.loads(path.read_text()))


def make_readable(root: Path, prepared: Path, counts: Counts) -> None:
    """Prepare for ``open_source``; opens no image. Raises one line per problem."""
    if any(has_shards(prepared, split) for split in SPLITS):
        if problems := shard_problems(prepared, counts):
            raise ValueError("\n".join(problems))
        return
    target = listing_folder(root, prepared, counts)
    if not target.is_dir():
        files = scan(root, counts)
        try:
            build_once(target, lambda folder: write_listing(folder, files))
        except OSError as error:
            raise unwritable(prepared, error) from error


def shard_problems(prepared: Path, counts: Counts) -> list[str]:
    """Check a folder of shards without reading an image; return one line per problem."""
    lines: list[str] = []
    for split in SPLITS:
        try:
            ShardSource(prepared, split, counts)
        except ValueError as error:
            lines += str(error).splitlines()
    return lines


def listing_folder(root: Path, prepared: Path, counts: Counts) -> Path:
    """Return the listing's folder; another data set or file of labels has another one."""
    name = f"files-{counts.classes}-{counts.train}-{counts.val}"
    if labels := labels_of_flat_val(root):
        name += f"-{hashlib.sha256(labels).hexdigest()[:8]}"
    return prepared / name


def write_all_shards(
    root: Path,
    prepared: Path,
    counts: Counts,
    *,
    processes: int = 0,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    redo: Collection[str] = (),
    show_progress: bool = False,
) -> int:
    """Check every image and write both splits' shards, keeping finished ones but those to redo.

    Returns the number of images that were not plain JPEGs: their bytes in the shards have another
    length (23 in ImageNet).
    """
    plans = _plans(root, scan(root, counts), samples_per_shard, measure=True)
    options: dict[str, Any] = {
        "version": FORMAT,
        "root": root,
        "redo": redo,
        "show_progress": show_progress,
    }
    with preparing(prepared, DATASET, {}, **options) as preparation:
        # No "is it ready?": finished shards are found by their records and sizes.
        index = write_shards(preparation, plans, partial(_load, root), processes=processes)
        preparation.finish(vars(counts))
    return sum(int((index[plan.split][:, 2] != plan.sizes).sum()) for plan in plans)


def drop_damaged(
    root: Path, prepared: Path, counts: Counts, *, processes: int, show_progress: bool
) -> bool:
    """Compare whole shards with their hashes and remove bad ones if they can be written again.

    Returns whether everything is there and intact.
    """
    bad: dict[Path, str] = {}
    for split in SPLITS:
        with suppress(UnfinishedError):
            bad |= damaged_shards(
                prepared, split, DATASET, processes=processes, show_progress=show_progress
            )
    if bad:
        print("\n".join(bad.values()))
        scan(root, counts)  # most of a bad shard is good: keep it where the images are gone
    for path in bad:
        path.unlink(missing_ok=True)
    return not bad and not shard_problems(prepared, counts)


def shards_outdated(root: Path, prepared: Path, counts: Counts) -> bool:
    """Return whether images were renamed or relabelled since the shards were written."""
    try:
        files = scan(root, counts)
    except (FileNotFoundError, ValueError):
        return False  # the raw images are gone: the shards are good as they are
    return any(
        read_manifest(prepared, plan.split, DATASET)["fingerprint"] != plan.fingerprint()
        for plan in _plans(root, files, SAMPLES_PER_SHARD)
    )


def _plans(
    root: Path, files: Files, samples_per_shard: int, *, measure: bool = False
) -> list[Plan]:
    """Plan both splits' shards; the files' sizes cost a system call each."""
    plans = []
    for split, images in (("train", files.train), ("val", files.val)):
        # The class folder is part of the key, as file names need not differ between classes.
        keys = [f"{files.synsets[c]}/{Path(name).stem.replace('.', '_')}" for name, c in images]
        sizes = [(root / name).stat().st_size for name, _ in images] if measure else []
        facts = {"synsets": list(files.synsets)}
        plan = Plan(DATASET, split, FIELDS, keys, images, samples_per_shard, facts, sizes=sizes)
        plans.append(plan)
    return plans


def _load(root: Path, image: tuple[str, int]) -> Loaded:
    path, label = root / image[0], image[1]
    try:
        content = path.read_bytes()
        data = standard_jpeg(content)
        check_decodable(data)
        raw = raw_file(path, hashlib.sha256(content).hexdigest())
    except (OSError, ValueError) as error:
        what = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else error
        raise ValueError(f"{path} {what}; {FileSource.remedy}") from error
    return Loaded((data, str(label).encode()), [raw])
