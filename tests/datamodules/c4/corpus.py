"""A small corpus in C4's files, and a tokenizer for it."""

import gzip
import json
from pathlib import Path

import numpy as np

VOCAB_SIZE = 300


def texts(seed, count=40):
    """Documents of a few words each."""
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("abcdefg"), 4)) for _ in range(60)]
    return [
        " ".join(rng.choice(words, int(rng.integers(5, 60)))) + f" {seed}-{i}" for i in range(count)
    ]


def write_text(path, documents):
    with gzip.open(path, "wb") as file:
        for text in documents:
            file.write(json.dumps({"text": text, "url": "", "timestamp": ""}).encode() + b"\n")


def train_tokenizer(some, vocab_size=VOCAB_SIZE):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(some, trainer)
    return tokenizer


def write_corpus(folder: Path, shards=2):
    """Write training shards, held-out text and a tokenizer; returns the texts by file name."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {f"c4-train.{768 + i:05d}-of-01024.json.gz": texts(i) for i in range(shards)}
    written["c4-validation.00000-of-00008.json.gz"] = texts(99, 20)
    for name, documents in written.items():
        write_text(folder / name, documents)
    train_tokenizer(texts(0)).save(str(folder / "tokenizer.json"))
    return written
