"""Preprocessing of LibriSpeech: vocabulary, shards and a manifest; restartable, in parallel.

A prepared folder holds ``tokenizer.model``, the shards ``train-*.tar`` and ``dev-*.tar``, for each
split a table of recordings (``train-index.npz``) and one of labels (``train-labels.npz``), and
``manifest.json``, which is written last: a folder with a manifest is complete.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.common.process_pool import outcomes, processes_for
from datamodules.librispeech.raw import (
    EVALUATION_SUBSET,
    TRAIN_SUBSETS,
    Utterance,
    find_data,
    scan,
    shorten,
)
from datamodules.librispeech.shards import Place, ShardPlan, write_shard
from datamodules.librispeech.text import UNKNOWN, Tokenizer, train_tokenizer

FORMAT = 1
MANIFEST, TOKENIZER = "manifest.json", "tokenizer.model"
SPLITS = ("train", "dev")
PARTS = ("index", "labels")  # tables of each split
SHARD_UTTERANCES = 1000  # about 200 MB
WORKER_BYTES = 500_000_000
# Below this many recordings a process's start costs more than the work.
SERIAL_RECORDINGS = 2000


@dataclass(frozen=True)
class Manifest:
    """What a prepared folder says of itself.

    Attributes:
        vocab_size: Pieces of its vocabulary.
        shards: Shard names by split, in order.
        num_samples: Audio samples of every utterance, by split.
        most_labels: Labels of the longest training transcript.
    """

    vocab_size: int
    shards: dict[str, list[str]]
    num_samples: dict[str, list[int]]
    most_labels: int


def read_manifest(folder: Path, vocab_size: int) -> Manifest | None:
    """The manifest of a complete prepared folder; opens nothing else.

    Args:
        folder: Prepared folder; may not exist.
        vocab_size: Pieces that the vocabulary must have.

    Returns:
        The manifest, or None if there is none, it is damaged or a file it names is gone.

    Raises:
        ValueError: If the folder was prepared with another vocabulary size.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
        if content.pop("format") != FORMAT:
            return None
        manifest = Manifest(**content)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if manifest.vocab_size != vocab_size:
        raise ValueError(
            f"{folder} was prepared with {manifest.vocab_size} pieces, data.vocab_size is "
            f"{vocab_size}: give another folder with --data.prepared_dir"
        )
    present = {entry.name for entry in folder.iterdir()}
    needed = {f"{name}.tar" for names in manifest.shards.values() for name in names}
    needed |= {TOKENIZER} | {f"{split}-{part}.npz" for split in SPLITS for part in PARTS}
    return manifest if needed <= present else None


def refuse_other_vocabulary(folder: Path, given: Path, vocab_size: int) -> None:
    """Refuse a vocabulary whose labels are not those of a prepared folder.

    Args:
        folder: Prepared folder.
        given: A SentencePiece model.
        vocab_size: Pieces that it must have.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is no such model, or another one than the folder was prepared with.
    """
    Tokenizer(given, vocab_size)
    if given.read_bytes() != (folder / TOKENIZER).read_bytes():
        raise ValueError(
            f"{folder} was prepared with another vocabulary than data.tokenizer_model {given}: "
            "give another folder with --data.prepared_dir"
        )


def build(
    root: Path,
    out: Path,
    *,
    vocab_size: int,
    tokenizer_model: Path | None = None,
    processes: int = 0,
    show_progress: bool = False,
) -> Manifest:
    """Bring a prepared folder into being; finished shards of an earlier run are kept.

    Args:
        root: Folder with the raw data.
        out: Prepared folder, created if need be.
        vocab_size: Pieces of the vocabulary.
        tokenizer_model: A vocabulary to use; None trains one on the training transcripts.
        processes: Worker processes; 0 chooses by cores and memory.
        show_progress: Draw a progress bar.

    Returns:
        The manifest.

    Raises:
        FileNotFoundError: If the root or the vocabulary is missing.
        ValueError: One line per problem: bad raw files, unknown characters, no space.
    """
    from filelock import FileLock

    subsets, problems = scan(find_data(root))
    if problems:
        raise ValueError("\n".join(problems))
    splits = {
        "train": [utterance for name in TRAIN_SUBSETS for utterance in subsets[name]],
        "dev": subsets[EVALUATION_SUBSET],
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / ".lock"):
            if (done := read_manifest(out, vocab_size)) is not None:  # another process was faster
                return done
            tokenizer = _tokenizer(out, splits["train"], vocab_size, tokenizer_model)
            labels = {name: _labels(tokenizer, split) for name, split in splits.items()}
            plans = {name: _plan(name, split) for name, split in splits.items()}
            places = _write_shards(out, plans, processes, show_progress=show_progress)
            return _finish(out, vocab_size, splits, labels, plans, places)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(
            f"{out}: cannot be written ({error.strerror or error}); finished shards are kept; make "
            "room or give another folder with --data.prepared_dir"
        ) from error


def _tokenizer(
    out: Path, train: Sequence[Utterance], vocab_size: int, given: Path | None
) -> Tokenizer:
    """The vocabulary, copied or trained into the prepared folder."""
    if given is not None:
        Tokenizer(given, vocab_size)  # refuse it before anything is written
        content = given.read_bytes()
    else:
        content = train_tokenizer((utterance.text for utterance in train), vocab_size)
    _write_whole(out / TOKENIZER, content)
    return Tokenizer(out / TOKENIZER, vocab_size)


def _labels(tokenizer: Tokenizer, split: Sequence[Utterance]) -> list[list[int]]:
    """Label ids of every transcript."""
    labels = [tokenizer.encode(utterance.text) for utterance in split]
    unknown = [
        f"{utterance.path}: its transcript has characters outside of the vocabulary"
        for utterance, ids in zip(split, labels, strict=True)
        if UNKNOWN in ids
    ]
    if unknown:
        raise ValueError("\n".join(shorten(unknown)))
    return labels


def _plan(split: str, utterances: Sequence[Utterance]) -> list[ShardPlan]:
    """Shards of a split."""
    firsts = range(0, len(utterances), SHARD_UTTERANCES)
    return [
        ShardPlan(f"{split}-{number:06d}", tuple(utterances[first : first + SHARD_UTTERANCES]))
        for number, first in enumerate(firsts)
    ]


def _write_shards(
    out: Path, plans: dict[str, list[ShardPlan]], processes: int, *, show_progress: bool
) -> dict[str, list[Place]]:
    """All shards; their places by name."""
    todo = [plan for split in plans.values() for plan in split]
    few = sum(len(plan.utterances) for plan in todo) < SERIAL_RECORDINGS
    workers = processes or (1 if few else processes_for(len(todo), WORKER_BYTES))
    job = partial(write_shard, folder=out)
    problems: list[str] = []
    places: dict[str, list[Place]] = {}
    for outcome in outcomes(job, todo, workers, "writing shards", show_progress=show_progress):
        if isinstance(outcome, str):
            problems.append(outcome)
        else:
            places[outcome[0]] = outcome[1]
    if problems:
        raise ValueError("\n".join(sorted(problems)))
    return places


def _finish(
    out: Path,
    vocab_size: int,
    splits: dict[str, list[Utterance]],
    labels: dict[str, list[list[int]]],
    plans: dict[str, list[ShardPlan]],
    places: dict[str, list[Place]],
) -> Manifest:
    """Tables and, last, the manifest."""
    lengths: dict[str, list[int]] = {}
    for split in SPLITS:
        names = [plan.name for plan in plans[split]]
        rows = [
            (number, place.offset, place.size, place.num_samples)
            for number, name in enumerate(names)
            for place in places[name]
        ]
        columns = ("shard", "offset", "size", "num_samples")
        table = np.array(rows, dtype=np.int64).reshape(-1, len(columns))
        index: dict[str, np.ndarray] = {
            name: table[:, column] for column, name in enumerate(columns)
        }
        lengths[split] = index["num_samples"].tolist()
        _save(out / f"{split}-index.npz", index)
        ends = np.cumsum([len(ids) for ids in labels[split]], dtype=np.int64)
        flat = np.array([label for ids in labels[split] for label in ids], dtype=np.int32)
        keys = np.array([utterance.key for utterance in splits[split]])
        _save(out / f"{split}-labels.npz", {"ids": flat, "ends": ends, "keys": keys})
    manifest = Manifest(
        vocab_size=vocab_size,
        shards={split: [plan.name for plan in plans[split]] for split in SPLITS},
        num_samples=lengths,
        most_labels=max(map(len, labels["train"])),
    )
    text = json.dumps({"format": FORMAT, **vars(manifest)})
    _write_whole(out / MANIFEST, text.encode())
    return manifest


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a table whole or not at all."""
    fresh: Any = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    np.savez(fresh, **arrays)  # type: ignore[arg-type]
    fresh.replace(path)


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_bytes(content)
    fresh.replace(path)
