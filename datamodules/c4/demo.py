"""Documents of a small invented language in C4's files, for the demos of language models.

There are 384 words of two syllables. Word t of a document is pi(word t - 6), pi a permutation of
all words, with probability 0.75, otherwise any word. Six interleaved chains are independent of each
other, so that whoever looks at fewer than six words of context sees uniform words: ln 384 = 5.95
nats per word. The language's own entropy is 2.04.
"""

import gzip
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

VERSION = "1"  # increase it whenever the written bytes change
NUM_SHARDS, FIRST_SHARD = 2, 768
DOCUMENTS_PER_SHARD, HELD_OUT_DOCUMENTS = 2500, 200
NUM_WORDS, LAG, REPEATED = 384, 6, 0.75
SHORTEST, LONGEST = 40, 400  # words of a document
VOCABULARY = 900  # of the tokenizer
SPECIAL_TOKENS = ["<|begin_of_text|>", "<|end_of_text|>"]
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
STREAM = 2019  # separates these random numbers from other uses of a shard's number
HELD_OUT = 10**6  # number of the held-out shard, which no training shard has


def write_shards(folder: Path) -> None:
    """Write the shards, and a tokenizer trained on those for training, into a folder."""
    training = [shard_texts(FIRST_SHARD + i, DOCUMENTS_PER_SHARD) for i in range(NUM_SHARDS)]
    for number, texts in enumerate(training, FIRST_SHARD):
        write_shard(folder / f"c4-train.{number:05d}-of-01024.json.gz", texts)
    held_out = shard_texts(HELD_OUT, HELD_OUT_DOCUMENTS)
    write_shard(folder / "c4-validation.00000-of-00008.json.gz", held_out)
    _train_tokenizer(text for texts in training for text in texts).save(
        str(folder / "tokenizer.json")
    )


def shard_texts(number: int, count: int) -> list[str]:
    """Draw the documents of one shard."""
    names = words()
    return [" ".join(names[word] for word in document) for document in documents(number, count)]


def documents(number: int, count: int) -> list[list[int]]:
    """Draw documents as numbers of words."""
    rng, successor = np.random.default_rng([STREAM, 1, number]), _permutation()
    lengths = rng.integers(SHORTEST, LONGEST + 1, count)
    word_DT = rng.integers(NUM_WORDS, size=(count, LONGEST))
    follows_DT = rng.random((count, LONGEST)) < REPEATED
    for t in range(LAG, LONGEST):
        follow = follows_DT[:, t]
        word_DT[follow, t] = successor[word_DT[follow, t - LAG]]
    return [row[:length].tolist() for row, length in zip(word_DT, lengths, strict=True)]


def words() -> list[str]:
    """Return the words by number, in an order that says nothing about them."""
    syllables = [c + v for c in CONSONANTS for v in VOWELS]
    rng = np.random.default_rng([STREAM, 2])
    chosen = rng.choice(len(syllables) ** 2, NUM_WORDS, replace=False)
    return [syllables[i // len(syllables)] + syllables[i % len(syllables)] for i in chosen]


def entropy() -> float:
    """Return the language's entropy in nats per word: no model does better for long."""
    right, wrong = REPEATED + (1 - REPEATED) / NUM_WORDS, (1 - REPEATED) / NUM_WORDS
    return -right * math.log(right) - (NUM_WORDS - 1) * wrong * math.log(wrong)


def write_shard(path: Path, texts: list[str]) -> None:
    """Write documents as C4 has them; the same texts give the same bytes."""
    with path.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
        for i, text in enumerate(texts):
            record = {
                "text": text,
                "timestamp": "2019-04-25T12:57:54Z",
                "url": f"https://example.org/{i}",
            }
            packed.write(json.dumps(record).encode() + b"\n")


def _permutation() -> np.ndarray:
    return np.random.default_rng([STREAM, 3]).permutation(NUM_WORDS)


def _train_tokenizer(texts: Iterator[str]) -> Any:
    """Train byte-level pair encoding, as Llama 3's is."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
