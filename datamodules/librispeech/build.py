"""Preparation of LibriSpeech: vocabulary, shards, labels and a manifest.

A prepared folder holds ``tokenizer.model``, the shards of the splits ``train`` and ``dev``
(``datamodules.common.shards``), for each split a table of labels (``train-labels.npz``), and
``manifest.json``, which is written last: a folder with a manifest is complete.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.common.atomic import atomic_file
from datamodules.common.preparation import preparing, shorten
from datamodules.common.shard_writer import Plan, write_shards
from datamodules.common.shards import index_path, manifest_path
from datamodules.common.shards import read_manifest as read_shard_manifest
from datamodules.librispeech.manifest import (
    DATASET,
    FORMAT,
    TOKENIZER,
    Manifest,
    read_manifest,
)
from datamodules.librispeech.raw import (
    EVALUATION_SUBSET,
    MOST_NAMED,
    TRAIN_SUBSETS,
    Utterance,
    find_data,
    scan,
)
from datamodules.librispeech.recordings import load
from datamodules.librispeech.text import UNKNOWN, Tokenizer, train_tokenizer

SPLITS = ("train", "dev")
FIELDS = ("flac", "txt")
SHARD_UTTERANCES = 1000  # about 200 MB
# Below this much audio a process's start costs more than the work.
SERIAL_BYTES = 400_000_000


def check_same_vocabulary(folder: Path, given: Path, vocab_size: int) -> None:
    """Raise an error unless a SentencePiece model is the one a folder was prepared with."""
    Tokenizer(given, vocab_size)
    if given.read_bytes() != (folder / TOKENIZER).read_bytes():
        raise ValueError(
            f"{folder} was prepared with another vocabulary than data.tokenizer_model {given}: "
            "give another directory with --data.prepared_dir"
        )


def build(
    root: Path,
    out: Path,
    *,
    vocab_size: int,
    tokenizer_model: Path | None = None,
    processes: int = 0,
    redo: Collection[str] = (),
    show_progress: bool = False,
) -> Manifest:
    """Prepare a folder; finished shards of an earlier run are kept, but those in ``redo``.

    Raises a FileNotFoundError if the root or the vocabulary is missing, and a ValueError with one
    line per problem: bad raw files, unknown characters, no space.
    """
    subsets, problems = scan(find_data(root))
    if problems:
        raise ValueError("\n".join(problems))
    splits = {
        "train": [utterance for name in TRAIN_SUBSETS for utterance in subsets[name]],
        "dev": subsets[EVALUATION_SUBSET],
    }
    settings = {"vocab_size": vocab_size}
    options: dict[str, Any] = {
        "version": FORMAT,
        "root": root,
        "redo": redo,
        "show_progress": show_progress,
    }
    with preparing(out, DATASET, settings, **options) as preparation:
        ready = preparation.manifest is not None
        if ready and (done := read_manifest(out, vocab_size)) is not None:
            return done
        _remove_old_format(out)
        # None trains a vocabulary on the training transcripts.
        tokenizer = _write_tokenizer(out, splits["train"], vocab_size, tokenizer_model)
        # Before the shards: a bad transcript is to be named within seconds.
        labels = {name: _labels(tokenizer, split) for name, split in splits.items()}
        index = write_shards(
            preparation,
            [_plan(name, split) for name, split in splits.items()],
            load,
            processes=processes,
            serial_bytes=SERIAL_BYTES,
            most_named=MOST_NAMED,
        )
        for name, split in splits.items():
            _write_labels(out, name, split, labels[name])
        lengths = {name: rows[:, -1].tolist() for name, rows in index.items()}
        most_labels = max(map(len, labels["train"]))
        preparation.finish(
            {"files": _files(out), "num_samples": lengths, "most_labels": most_labels}
        )
        return Manifest(vocab_size, lengths, most_labels)


def _files(out: Path) -> dict[str, int]:
    """Return the sizes of all files that a reader needs."""
    names = [TOKENIZER]
    for split in SPLITS:
        shards = read_shard_manifest(out, split, DATASET)["shards"]
        names += [manifest_path(out, split).name, index_path(out, split).name]
        names += [*(shard["name"] for shard in shards), _labels_name(split)]
    return {name: (out / name).stat().st_size for name in names}


def _labels_name(split: str) -> str:
    return f"{split}-labels.npz"


def _remove_old_format(out: Path) -> None:
    """Remove what only format 1 had; its shards go when the new ones are written."""
    for pattern in ("train-[0-9]*.json", "dev-[0-9]*.json", "*-index.npz", ".*.partial"):
        for path in out.glob(pattern):
            path.unlink()


def _write_tokenizer(
    out: Path, train: Sequence[Utterance], vocab_size: int, given: Path | None
) -> Tokenizer:
    """Copy the vocabulary into the prepared folder, or train it."""
    if given is not None:
        Tokenizer(given, vocab_size)  # raises before anything is written
        content = given.read_bytes()
    else:
        content = train_tokenizer((utterance.text for utterance in train), vocab_size)
    with atomic_file(out / TOKENIZER) as file:
        file.write(content)
    return Tokenizer(out / TOKENIZER, vocab_size)


def _labels(tokenizer: Tokenizer, split: Sequence[Utterance]) -> list[list[int]]:
    """Return the label ids of every transcript."""
    labels = [tokenizer.encode(utterance.text) for utterance in split]
    unknown = [
        f"{utterance.path}: its transcript has characters outside of the vocabulary"
        for utterance, ids in zip(split, labels, strict=True)
        if UNKNOWN in ids
    ]
    if unknown:
        raise ValueError("\n".join(shorten(unknown, MOST_NAMED)))
    return labels


def _plan(split: str, utterances: Sequence[Utterance]) -> Plan:
    return Plan(
        DATASET,
        split,
        FIELDS,
        keys=[utterance.key for utterance in utterances],
        items=utterances,
        samples_per_shard=SHARD_UTTERANCES,
        texts=[utterance.text for utterance in utterances],
        sizes=[_size(utterance.path) for utterance in utterances],
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0  # its shard will say what is wrong


def _write_labels(
    out: Path, split: str, utterances: Sequence[Utterance], labels: Sequence[Sequence[int]]
) -> None:
    """Write the label ids of all transcripts end to end, where each one ends, and the keys."""
    ids = np.array([label for transcript in labels for label in transcript], dtype=np.int32)
    ends = np.cumsum([len(transcript) for transcript in labels], dtype=np.int64)
    keys = np.array([utterance.key for utterance in utterances])
    with atomic_file(out / _labels_name(split)) as file:
        np.savez(file, ids=ids, ends=ends, keys=keys)
