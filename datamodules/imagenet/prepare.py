"""Brings ImageNet into the form that training reads: shards, or a listing of plain files."""

import errno
import hashlib
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from datamodules.common.cache import build_once
from datamodules.common.shards import Plan, damaged_shards, has_shards, read_manifest, write_shards
from datamodules.imagenet.files import Counts, labelling, scan
from datamodules.imagenet.images import decode, standard_jpeg
from datamodules.imagenet.samples import (
    DATASET,
    FIELDS,
    FileSource,
    ImageSource,
    ShardSource,
    write_listing,
)

SPLITS = ("train", "val")
SAMPLES_PER_SHARD = 10_000  # about 1.1 GB


def open_source(root: Path, prepared: Path, split: str, counts: Counts) -> ImageSource:
    """The images of a split: from shards where there are any, else from the files.

    Args:
        root: Folder with ``train`` and ``val``.
        prepared: Folder of shards or listing.
        split: ``train`` or ``val``.
        counts: What must be there.

    Returns:
        The images.

    Raises:
        ValueError: One line per problem.
    """
    if has_shards(prepared, split):
        return ShardSource(prepared, split, counts)
    return FileSource(root, listing_folder(root, prepared, counts), split)


def make_readable(root: Path, prepared: Path, counts: Counts) -> None:
    """See to it that ``open_source`` works; with shards or a listing there, opens no image.

    Args:
        root: Folder with ``train`` and ``val``, or with shards.
        prepared: Folder of shards or listing.
        counts: What must be there.

    Raises:
        FileNotFoundError: If the root does not exist.
        ValueError: One line per problem.
    """
    if any(has_shards(prepared, split) for split in SPLITS):
        problems = shard_problems(prepared, counts)
        if problems:
            raise ValueError("\n".join(problems))
        return
    target = listing_folder(root, prepared, counts)
    if not target.is_dir():
        files = scan(root, counts)
        try:
            build_once(target, lambda folder: write_listing(folder, files))
        except OSError as error:
            raise _unwritable(prepared, error) from error


def _unwritable(prepared: Path, error: OSError) -> ValueError:
    return ValueError(
        f"{prepared} cannot be written ({error.strerror or error}); name another folder with "
        "--data.prepared_dir"
    )


def shard_problems(prepared: Path, counts: Counts) -> list[str]:
    """What is wrong with a folder of shards, without reading any image.

    Args:
        prepared: The folder.
        counts: What must be there.

    Returns:
        One line per problem.
    """
    lines: list[str] = []
    for split in SPLITS:
        try:
            ShardSource(prepared, split, counts)
        except ValueError as error:
            lines += str(error).splitlines()
    return lines


def listing_folder(root: Path, prepared: Path, counts: Counts) -> Path:
    """Where the listing of plain files is; another data set or file of labels has another one.

    Args:
        root: Folder with ``train`` and ``val``.
        prepared: Folder for prepared data.
        counts: What must be there.

    Returns:
        The folder.
    """
    name = f"files-{counts.classes}-{counts.train}-{counts.val}"
    if labels := labelling(root):
        name += f"-{hashlib.sha256(labels).hexdigest()[:8]}"
    return prepared / name


def write_all_shards(
    root: Path,
    prepared: Path,
    counts: Counts,
    *,
    processes: int = 0,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    show_progress: bool = False,
) -> None:
    """Check every image and write the shards of both splits; finished shards are kept.

    Args:
        root: Folder with ``train`` and ``val``.
        prepared: Where the shards go.
        counts: What must be there.
        processes: Writers; 0 chooses by cores and memory.
        samples_per_shard: Images per tar file.
        show_progress: Draw a progress bar on standard error.

    Raises:
        FileNotFoundError: If the root does not exist.
        ValueError: One line per missing part or unreadable image.
    """
    files = scan(root, counts)
    try:
        prepared.mkdir(parents=True, exist_ok=True)
        if not os.access(prepared, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _unwritable(prepared, error) from error
    for split in SPLITS:
        images = files.train if split == "train" else files.val
        write_shards(
            prepared,
            _plan(split, images, files.synsets, samples_per_shard),
            partial(_load, root, [name for name, _ in images], [c for _, c in images]),
            processes=processes,
            show_progress=show_progress,
        )


def drop_damaged(
    root: Path, prepared: Path, counts: Counts, *, processes: int, show_progress: bool
) -> bool:
    """Read whole shards against their hashes and remove the bad ones, if they can be replaced.

    Args:
        root: Folder with ``train`` and ``val``.
        prepared: Folder of shards.
        counts: What must be there.
        processes: Readers; 0 chooses.
        show_progress: Draw a progress bar on standard error.

    Returns:
        True if everything is there and whole.

    Raises:
        FileNotFoundError: If there are bad shards, but no root.
        ValueError: If there are bad shards, but not the images to write them again.
    """
    bad: dict[Path, str] = {}
    for split in SPLITS:
        if (prepared / f"{split}.json").is_file():
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
    """Whether images were renamed or labelled anew since the shards were written.

    Args:
        root: Folder with ``train`` and ``val``; where they are gone, shards are good as they are.
        prepared: Folder of finished shards.
        counts: What must be there.

    Returns:
        True if writing them now would give other names or classes.
    """
    try:
        files = scan(root, counts)
    except (FileNotFoundError, ValueError):
        return False
    return any(
        read_manifest(prepared, split, DATASET)["fingerprint"]
        != _plan(split, images, files.synsets, SAMPLES_PER_SHARD).fingerprint()
        for split, images in (("train", files.train), ("val", files.val))
    )


def count_encoded_anew(root: Path, prepared: Path, counts: Counts) -> int:
    """How many images were no plain JPEG: their bytes in the shards have another length.

    Args:
        root: Folder with ``train`` and ``val``.
        prepared: Folder of shards.
        counts: What must be there.

    Returns:
        The number; 23 in ImageNet.
    """
    files = scan(root, counts)
    changed = 0
    for split, images in (("train", files.train), ("val", files.val)):
        index = np.load(prepared / f"{split}.index.npy")
        pairs = zip(images, index[:, 2], strict=True)
        changed += sum((root / name).stat().st_size != size for (name, _), size in pairs)
    return changed


def _plan(
    split: str, images: Sequence[tuple[str, int]], synsets: Sequence[str], samples_per_shard: int
) -> Plan:
    # The class folder is part of the key, as file names need not differ between classes.
    keys = [f"{synsets[c]}/{Path(name).stem.replace('.', '_')}" for name, c in images]
    facts = {"synsets": list(synsets)}
    return Plan(DATASET, split, FIELDS, keys, samples_per_shard, facts)


def _load(root: Path, names: list[str], labels: list[int], number: int) -> tuple[bytes, bytes]:
    path = root / names[number]
    try:
        data = standard_jpeg(path.read_bytes())
        decode(data)  # an image that cannot be decoded is to be found now
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} {error}; {FileSource.remedy}") from error
    return data, str(labels[number]).encode()
