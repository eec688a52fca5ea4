"""How a text, a vocabulary and starting weights differ from the published ones."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.wikipedia.source import reference_checksums
from datamodules.wikipedia.text import PUBLISHED_PARTS, num_parts_in, text_folder

DATA_ENDING = ".data-00000-of-00001"


class PublishedFile(NamedTuple):
    """Size in bytes, and the MD5 where it is quick to compute."""

    size: int
    md5: str | None = None


# The same weights as TensorFlow 1 and 2 write them; either is sufficient. An index holds a checksum
# of each tensor, which is verified when weights are read, so its own MD5 vouches for all of them.
# Source: mlcommons/training, language_model/tensorflow/bert/dataset.md.
CHECKPOINTS = {
    Path("tf1_ckpt") / "model.ckpt-28252": {
        ".index": PublishedFile(17_371, "f97de3ae180eb8d479555c939d50d048"),
        DATA_ENDING: PublishedFile(4_034_713_312),
    },
    Path("tf2_ckpt") / "model.ckpt-28252": {
        ".index": PublishedFile(6_420, "fc34dd7a54afc07f2d8e9d64471dc672"),
        DATA_ENDING: PublishedFile(1_344_982_997),
    },
}


def checkpoint_in(root: Path) -> Path:
    """Return the published checkpoint that exists, else where the first one should be."""
    paths = [root / name for name in CHECKPOINTS]
    return next((path for path in paths if Path(f"{path}.index").is_file()), paths[0])


def vocabulary_is_published(path: Path) -> bool:
    """Return whether a file is BERT's own ``vocab.txt``, which the starting weights belong to."""
    return path.is_file() and _md5(path) == reference_checksums(path.parent)["vocab.txt"]


def differences(root: Path, vocabulary: Path, shards: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return one line per difference; reads the small files and the held-out text only.

    Args:
        root: The data's root.
        vocabulary: Its ``vocab.txt``.
        shards: Records of the prepared shards, with ``file`` and ``md5``; empty before ``prepare``.

    Returns:
        Lines that name file and difference; a file that is missing is no difference.
    """
    folder, lines = text_folder(root), []
    if (parts := num_parts_in(folder)) != PUBLISHED_PARTS:
        lines.append(f"{parts:,} text files instead of {PUBLISHED_PARTS} parts")
    if vocabulary.is_file() and not vocabulary_is_published(vocabulary):
        lines.append("vocab.txt is not the published vocabulary")
    md5s = reference_checksums(folder)
    for path in (folder / "eval.txt", folder / "eval.md5"):
        if path.is_file() and _md5(path) != md5s[path.name]:
            lines.append(f"{path.name} is not the published one")
    odd = [s["file"] for s in shards.values() if s["md5"] != md5s.get(s["file"], s["md5"])]
    odd = [name for name in odd if name not in ("eval.txt", "eval.md5")]
    if odd:
        lines.append(f"{len(odd)} prepared parts of other text than the published ({odd[0]})")
    return lines + _other_checkpoint(root)


def _other_checkpoint(root: Path) -> list[str]:
    checkpoint = checkpoint_in(root)
    name = checkpoint.relative_to(root)
    for ending, published in CHECKPOINTS[name].items():
        path = Path(f"{checkpoint}{ending}")
        if not path.is_file():
            continue
        if path.stat().st_size != published.size:
            size = path.stat().st_size
            return [f"{name}{ending} has {size:,} bytes instead of {published.size:,}"]
        if published.md5 and _md5(path) != published.md5:
            return [f"{name}{ending} is not the published one (its MD5 is not {published.md5})"]
    return []


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
