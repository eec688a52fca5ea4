"""The published token files: what a closed run trains and evaluates on, and where they come from.

Source: mlcommons/training @ aa344c7, small_llm_pretraining/nemo, and the sizes of the files that
NVIDIA mounted for round v5.1 (mlcommons/training_results_v5.1 @ 441d65f, implementations/nemo/
expected-mounts-8b.csv). Training uses the shards 768 to 895 of C4's 1,024, called file 6.
"""

from pathlib import Path
from typing import NamedTuple

from datamodules.c4.indexed import Pair
from datamodules.common.reading import entries

VOCABULARY = 128_256
FIRST_ID, LAST_ID = 128_000, 128_001  # begin and end of a text, in Llama 3's vocabulary
DOWNLOAD_GB = 85.1
BUNDLE = "https://training.mlcommons-storage.org/metadata/llama-3-1-8b-preprocessed-c4-dataset.uri"
WHERE = (
    f"MLCommons' token files ({DOWNLOAD_GB:.0f} GB, no login, text of C4 under ODC-BY), {BUNDLE}; "
    "see 'Data' in docs/llama31_8b.md for the command"
)


class Split(NamedTuple):
    """Published facts of a split."""

    stem: str
    documents: int
    tokens: int


SPLITS = {
    "train": Split("c4-train.en_6_text_document", 45_608_611, 20_994_193_570),
    "validation": Split("c4-validation-91205-samples.en_text_document", 91_205, 41_642_091),
}


def find_pair(root: Path, split: str) -> Pair:
    """Return the two files of a split: the published ones, else own ones named after the split.

    Args:
        root: Folder of the token files.
        split: ``train`` or ``validation``.

    Returns:
        The files, which both exist.

    Raises:
        FileNotFoundError: If one is missing; one line.
        ValueError: If several pairs could be meant; one line.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"data root {root} is not a directory; get {WHERE}")
    pair = Pair.of(root / SPLITS[split].stem)
    if not (pair.bin.exists() or pair.idx.exists()):
        stems = sorted({path.with_suffix("") for path in entries(root) if _is_own(path, split)})
        if stems[1:]:
            names = ", ".join(f"{stem.name}.idx" for stem in stems)
            raise ValueError(f"{root}: {names} could all be for {split}; leave one of them there")
        pair = Pair.of(stems[0]) if stems else pair
    for path in pair:
        if not path.is_file():
            text = any(path.name.endswith(".json.gz") for path in entries(root))
            how = f"make it of the text with prepare --data.raw {root}" if text else f"get {WHERE}"
            raise FileNotFoundError(f"{path} is missing; {how}")
    return pair


def _is_own(path: Path, split: str) -> bool:
    return path.suffix in (".bin", ".idx") and path.name[0] != "." and split_of(path.name) == split


def split_of(name: str) -> str | None:
    """Return which split an own file is of, by its name; None if of none."""
    if "train" in name:
        return "train"
    return "validation" if "val" in name else None


def count_lines(split: str, documents: int, tokens: int) -> list[str]:
    """Say how a split's counts differ from the published ones; empty if they do not."""
    published = SPLITS[split]
    return [
        f"{count:,} {split} {what} instead of {wanted:,}"
        for what, count, wanted in (
            ("documents", documents, published.documents),
            ("tokens", tokens, published.tokens),
        )
        if count != wanted
    ]
