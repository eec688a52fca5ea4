"""Prepare ImageNet for training: shards, or a listing of plain files."""

import hashlib
import os
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.common.atomic import atomic_folder
from datamodules.common.preparation import preparing, unwritable
from datamodules.common.progress import stage
from datamodules.common.records import raw_file, read_records
from datamodules.common.shard_writer import Loaded, Plan, write_shards
from datamodules.common.shards import (
    UnfinishedError,
    damaged_shards,
    has_shards,
    manifest_path,
    read_manifest,
)
from datamodules.imagenet.contents import Contents, differences, of_files, of_listing, of_shards
from datamodules.imagenet.files import (
    Counts,
    Files,
    Wanted,
    folder_times,
    has_raw_images,
    labels_of_flat_val,
    scan,
)
from datamodules.imagenet.jpeg import ImageKindError, check_decodable, standard_jpeg
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


def open_source(root: Path, prepared: Path, split: str, counts: Counts | Wanted) -> ImageSource:
    """Open a split's images: from shards where there are any, else from the files."""
    if has_shards(prepared, split):
        return ShardSource(prepared, split, counts)
    return FileSource(root, listing_folder(root, prepared, counts), split)


def make_readable(root: Path, prepared: Path, counts: Counts | Wanted) -> None:
    """Prepare for ``open_source``; opens no image. Raises one line per problem."""
    if any(has_shards(prepared, split) for split in SPLITS):
        if problems := shard_problems(prepared, counts):
            raise ValueError("\n".join(problems))
        return
    if _has_splits(root) and listing_folder(root, prepared, counts).is_dir():
        return
    files = scan(root, counts)
    target = listing_folder(root, prepared, counts)
    try:
        with atomic_folder(target) as folder:  # of several processes the first one's stays
            write_listing(folder, files)
    except OSError as error:
        raise unwritable(prepared, error) from error


def contents_of(root: Path, prepared: Path, counts: Counts | Wanted) -> Contents:
    """Count classes and images, of shards where there are any; a ``ValueError`` if unreadable."""
    if any(has_shards(prepared, split) for split in SPLITS):
        return of_shards(prepared, DATASET)
    if _has_splits(root):
        with suppress(OSError, ValueError):  # there is no listing yet
            return of_listing(listing_folder(root, prepared, counts))
    return of_files(scan(root, counts))


def shard_problems(prepared: Path, counts: Counts | Wanted) -> list[str]:
    """Check a folder of shards without reading an image; return one line per problem."""
    lines: list[str] = []
    for split in SPLITS:
        try:
            ShardSource(prepared, split, counts)
        except ValueError as error:
            lines += str(error).splitlines()
    return lines


def listing_folder(root: Path, prepared: Path, counts: Counts | Wanted) -> Path:
    """Return the listing's folder; other images, labels or required counts have another one."""
    digest = hashlib.sha256(labels_of_flat_val(root))
    digest.update(f"{counts.classes} {counts.train} {counts.val}".encode())
    for line in folder_times(root):
        digest.update(f"\n{line}".encode())
    return prepared / f"files-{digest.hexdigest()[:12]}"


def write_all_shards(
    root: Path,
    prepared: Path,
    counts: Counts | Wanted,
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
    files = scan(root, counts)
    plans, contents = _plans(root, files, samples_per_shard, measure=True), of_files(files)
    options: dict[str, Any] = {
        "version": FORMAT,
        "root": root,
        "redo": redo,
        "show_progress": show_progress,
    }
    with preparing(prepared, DATASET, {}, **options) as preparation:
        # No "is it ready?": finished shards are found by their records and sizes.
        index = write_shards(preparation, plans, partial(_load, root), processes=processes)
        if differences(contents):  # ImageNet's own images are what they are
            _check_leak(prepared)
        preparation.finish({**vars(contents.counts), "per_class": contents.per_class})
    return sum(int((index[plan.split][:, 2] != plan.sizes).sum()) for plan in plans)


def shard_bytes(root: Path, files: Files) -> int:
    """Return about how large the shards will be; a system call per image."""
    return sum(sum(plan.sizes) for plan in _plans(root, files, SAMPLES_PER_SHARD, measure=True))


def _check_leak(prepared: Path) -> None:
    """Raise, and leave the shards unfinished, if evaluation images are training images too."""
    paths: dict[str, dict[str, str]] = {split: {} for split in SPLITS}
    for unit, record in read_records(prepared).items():
        if unit:
            paths[unit.partition("-")[0]] |= {sha256: path for path, *_, sha256 in record["raw"]}
    if shared := paths["train"].keys() & paths["val"].keys():
        manifest_path(prepared, "val").unlink()
        first = min(shared, key=lambda sha256: paths["val"][sha256])
        raise ValueError(
            f"{paths['val'][first]} is {paths['train'][first]} too, to the byte; {len(shared)} "
            "evaluation images are training images: remove them from one of the two"
        )


def drop_damaged(
    root: Path,
    prepared: Path,
    counts: Counts | Wanted,
    *,
    named: Collection[str] = (),
    processes: int,
    show_progress: bool,
) -> bool:
    """Compare whole shards with their hashes and remove bad ones if they can be written again.

    Returns whether everything is there and intact. Shards in ``named`` are not named again.
    """
    bad: dict[Path, str] = {}
    for split in SPLITS:
        with suppress(UnfinishedError):
            bad |= damaged_shards(
                prepared, split, DATASET, processes=processes, show_progress=show_progress
            )
    for path, line in bad.items():
        if path.name not in named:
            print(line)
    if bad:
        scan(root, counts)  # most of a bad shard is good: keep it where the images are gone
    for path in bad:
        path.unlink(missing_ok=True)
    return not bad and not shard_problems(prepared, counts)


def outdated_splits(root: Path, prepared: Path, counts: Counts | Wanted) -> list[str]:
    """Return the splits whose images were added, removed, renamed or relabelled since."""
    if not has_raw_images(root):
        return []  # the raw images are gone: the shards are good as they are
    return [
        plan.split
        for plan in _plans(root, scan(root, counts), SAMPLES_PER_SHARD)
        if read_manifest(prepared, plan.split, DATASET)["fingerprint"] != plan.fingerprint()
    ]


def _has_splits(root: Path) -> bool:
    return all((root / split).is_dir() for split in SPLITS)


def _plans(
    root: Path, files: Files, samples_per_shard: int, *, measure: bool = False
) -> list[Plan]:
    """Plan both splits' shards; the files' sizes cost a system call each."""
    plans = []
    for split, images in (("train", files.train), ("val", files.val)):
        with stage(f"planning {split} shards"):
            keys = [_key(files.synsets[label], name) for name, label in images]
            paths = (os.path.join(root, name) for name, _ in images) if measure else ()
            sizes = [os.stat(path).st_size for path in paths]
        facts = {"synsets": list(files.synsets)}
        plan = Plan(DATASET, split, FIELDS, keys, images, samples_per_shard, facts, sizes=sizes)
        plans.append(plan)
    return plans


def _key(synset: str, name: str) -> str:
    """Return the key of an image; file names need not differ between classes."""
    # Text, not paths, which take 4 s for ImageNet's names.
    stem = os.path.splitext(os.path.basename(name))[0]
    return f"{synset}/{stem.replace('.', '_')}"


def _load(root: Path, image: tuple[str, int]) -> Loaded:
    path, label = root / image[0], image[1]
    try:
        content = path.read_bytes()
        data = standard_jpeg(content)
        check_decodable(data)
        raw = raw_file(path, hashlib.sha256(content).hexdigest())
    except ImageKindError as error:
        raise ValueError(f"{path} {error}") from error
    except (OSError, ValueError) as error:
        what = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else error
        raise ValueError(f"{path} {what}; {FileSource.remedy}") from error
    return Loaded((data, str(label).encode()), [raw])
