"""Preparation of LibriSpeech: vocabulary, shards, labels and a manifest.

A prepared folder holds ``tokenizer.model``, the shards of the splits ``train`` and ``dev``
(``datamodules.common.shards``), for each split a table of labels (``train-labels.npz``), and
``manifest.json``, which is written last: a folder with a manifest is complete.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.common.atomic import atomic_file
from datamodules.common.preparation import preparing, shorten
from datamodules.common.process_pool import outcomes
from datamodules.common.progress import stage
from datamodules.common.records import file_hashes, read_records
from datamodules.common.shard_writer import Plan, write_shards
from datamodules.common.shards import UnfinishedError, index_path, manifest_path
from datamodules.common.shards import read_manifest as read_shard_manifest
from datamodules.librispeech.manifest import (
    DATASET,
    FORMAT,
    TOKENIZER,
    Manifest,
    read_manifest,
)
from datamodules.librispeech.raw import MOST_NAMED, Utterance, Utterances, scan
from datamodules.librispeech.recordings import load
from datamodules.librispeech.subsets import Subsets
from datamodules.librispeech.text import UNKNOWN, Tokenizer, train_tokenizer

SPLITS = ("train", "dev")
FIELDS = ("flac", "txt")
SHARD_UTTERANCES = 1000  # about 200 MB
# Below this much audio or text a process's start costs more than the work.
SERIAL_BYTES, SERIAL_LETTERS = 400_000_000, 1_000_000


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
    folder: Path,
    subsets: Subsets,
    *,
    vocab_size: int,
    tokenizer_model: Path | None = None,
    processes: int = 0,
    redo: Collection[str] = (),
    show_progress: bool = False,
) -> Manifest:
    """Prepare a folder; finished shards of an earlier run are kept, but those in ``redo``.

    ``folder`` is the one with the subsets, in the root. Raises a FileNotFoundError if the
    vocabulary is missing, and a ValueError with one line per problem: bad raw files, unknown
    characters, no space, evaluation recordings that are trained on too.
    """
    utterances, problems = scan(folder, subsets)
    if problems:
        raise ValueError("\n".join(problems))
    splits = _splits(utterances, subsets)
    settings = {"vocab_size": vocab_size}
    options: dict[str, Any] = {
        "version": FORMAT,
        "root": root,
        "redo": redo,
        "show_progress": show_progress,
    }
    with preparing(out, DATASET, settings, **options) as preparation:
        ready = preparation.manifest is not None and is_current(out, utterances, subsets)
        if ready and (done := read_manifest(out, vocab_size)) is not None:
            return done
        _remove_old_format(out)
        # None trains a vocabulary on the training transcripts.
        tokenizer = _write_tokenizer(out, splits["train"], vocab_size, tokenizer_model)
        # Before the shards: a bad transcript is to be named within seconds.
        with stage("encoding transcripts"):
            labels = {name: _labels(tokenizer, split) for name, split in splits.items()}
        index = write_shards(
            preparation,
            [_with_sizes(_plan(name, split)) for name, split in splits.items()],
            load,
            processes=processes,
            serial_bytes=SERIAL_BYTES,
            most_named=MOST_NAMED,
        )
        for name, split in splits.items():
            _write_labels(out, name, split, labels[name])
        _check_no_audio_is_in_both(out, splits)
        lengths = {name: rows[:, -1].tolist() for name, rows in index.items()}
        most_labels = max(map(len, labels["train"]))
        counts = {
            split: {name: len(utterances[name]) for name in names}
            for split, names in subsets.by_split.items()
        }
        texts = [u.text for some in splits.values() for u in some]
        letters = "".join(sorted({letter for text in texts for letter in text}))
        files = _files(out)
        preparation.finish(
            {
                "files": files,
                "sha256": file_hashes(out, [name for name in files if not name.endswith(".tar")]),
                "num_samples": lengths,
                "most_labels": most_labels,
                "subsets": counts,
                "letters": letters,
            }
        )
        return Manifest(vocab_size, lengths, most_labels, counts, letters)


def is_current(out: Path, utterances: Utterances, subsets: Subsets) -> bool:
    """Return whether a prepared folder has the ids and transcripts of these utterances."""
    try:
        return all(
            read_shard_manifest(out, split, DATASET)["fingerprint"]
            == _plan(split, some).fingerprint()
            for split, some in _splits(utterances, subsets).items()
        )
    except (UnfinishedError, KeyError):
        return False


def shard_bytes(utterances: Utterances) -> int:
    """Return about how large the shards will be; a system call per recording."""
    return sum(_size(utterance.path) for some in utterances.values() for utterance in some)


def _splits(utterances: Utterances, subsets: Subsets) -> Utterances:
    return {
        split: [utterance for name in names for utterance in utterances[name]]
        for split, names in subsets.by_split.items()
    }


def _check_no_audio_is_in_both(out: Path, splits: Utterances) -> None:
    """Raise a ValueError that names evaluation recordings that are trained on under another id."""
    records = read_records(out)
    by_digest: dict[str, dict[str, Utterance]] = {}
    for split, utterances in splits.items():
        units = _plan(split, utterances).units()
        digests = [records[unit.name]["result"].get("digests") for unit in units]
        known = [digest for some in digests if some for digest in some]
        if len(known) == len(utterances):  # version 0.2 and earlier noted none
            by_digest[split] = dict(zip(known, utterances, strict=True))
    train, dev = by_digest.get("train", {}), by_digest.get("dev", {})
    twice = [
        f"{dev[digest].path}: the same audio as {train[digest].path}; evaluation recordings must "
        "not be trained on, remove one of them"
        for digest in dev.keys() & train.keys()
    ]
    if twice:
        raise ValueError("\n".join(shorten(sorted(twice), MOST_NAMED)))


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
        content = _trained([utterance.text for utterance in train], vocab_size)
    with atomic_file(out / TOKENIZER) as file:
        file.write(content)
    return Tokenizer(out / TOKENIZER, vocab_size)


def _trained(texts: Sequence[str], vocab_size: int) -> bytes:
    """Train a vocabulary, of much text in a process of its own, which keeps this one responsive."""
    processes = 1 if sum(map(len, texts)) < SERIAL_LETTERS else 2  # two is a pool, for one job
    job = partial(train_tokenizer, vocab_size=vocab_size)
    (model,) = outcomes(job, [texts], processes, "training the vocabulary", show_progress=False)
    if isinstance(model, str):
        raise ValueError(model)
    return model


def _labels(tokenizer: Tokenizer, split: Sequence[Utterance]) -> list[list[int]]:
    """Return the label ids of every transcript."""
    labels = [tokenizer.encode(utterance.text) for utterance in split]
    unknown = [
        f"{utterance.path}: its transcript has characters outside of the vocabulary "
        f"({_unknown_letters(tokenizer, utterance.text)})"
        for utterance, ids in zip(split, labels, strict=True)
        if UNKNOWN in ids
    ]
    if unknown:
        raise ValueError("\n".join(shorten(unknown, MOST_NAMED)))
    return labels


def _unknown_letters(tokenizer: Tokenizer, text: str) -> str:
    letters = dict.fromkeys(c for c in text if c != " " and UNKNOWN in tokenizer.encode(c))
    return " ".join(letters) or text


def _plan(split: str, utterances: Sequence[Utterance]) -> Plan:
    """Plan the shards of a split, sizes aside, which only ``_with_sizes`` looks up."""
    return Plan(
        DATASET,
        split,
        FIELDS,
        keys=[utterance.key for utterance in utterances],
        items=utterances,
        samples_per_shard=SHARD_UTTERANCES,
        texts=[utterance.text for utterance in utterances],
    )


def _with_sizes(plan: Plan) -> Plan:
    return replace(plan, sizes=[_size(utterance.path) for utterance in plan.items])


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
