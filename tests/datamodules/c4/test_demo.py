"""The demo's language: the same bytes each time, and nothing that a short memory could learn."""

import math

import numpy as np
import pytest

from datamodules.c4 import C4DataModule, demo
from datamodules.c4.indexed import map_tokens
from datamodules.c4.published import SPLITS, find_pair

TARGET = 3.34  # the easier of the two demos' targets, in nats a token
MARGIN = 2.0


@pytest.fixture(scope="module")
def ids(shared_cache):
    """The tokens that the demo trains on, as many as the counts below need, and is judged by."""
    data = C4DataModule(seq_length=128, vocab_size=demo.VOCABULARY)
    data.prepare_data()
    train, held_out = (map_tokens(find_pair(data._source, s).bin, "uint16") for s in SPLITS)
    return {"train": train[:250_000].astype(int), "held_out": held_out[: 64 * 128].astype(int)}


def test_the_same_bytes_each_time(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        texts = demo.shard_texts(5, 20)
        demo.write_shard(tmp_path / name / "x.json.gz", texts)
    assert (tmp_path / "a/x.json.gz").read_bytes() == (tmp_path / "b/x.json.gz").read_bytes()
    assert demo.shard_texts(5, 20) == demo.shard_texts(5, 20) != demo.shard_texts(6, 20)


def test_the_language_is_as_described():
    documents = demo.documents(3, 400)
    assert {len(each) for each in documents} <= set(range(40, 401))
    pairs = [(a, b) for each in documents for a, b in zip(each, each[6:], strict=False)]
    follows = {}
    for a, b in pairs:
        follows.setdefault(a, []).append(b)
    usual = {a: max(set(some), key=some.count) for a, some in follows.items()}
    assert len(set(usual.values())) == demo.NUM_WORDS  # a permutation
    share = np.mean([usual[a] == b for a, b in pairs])
    assert share == pytest.approx(demo.REPEATED + 0.25 / demo.NUM_WORDS, abs=0.005)
    assert demo.entropy() == pytest.approx(2.045, abs=0.001)
    assert len(set(demo.words())) == demo.NUM_WORDS


def test_no_held_out_document_is_trained_on():
    held_out = set(demo.shard_texts(demo.HELD_OUT, 200))
    for i in range(demo.NUM_SHARDS):
        assert not held_out & set(demo.shard_texts(demo.FIRST_SHARD + i, 2500))


def unigram(train, held_out, size):
    counts = np.bincount(train, minlength=size) + 0.1
    return -np.log(counts / counts.sum())[held_out].mean()


def ngram(train, held_out, size, lags):
    """Mean loss of a count model of the tokens some places before; backs off to the unigram."""
    last = max(lags)
    base = np.bincount(train, minlength=size) + 0.1
    base = base / base.sum()
    counts = {}
    contexts = lambda x: zip(*(x[last - lag : len(x) - lag].tolist() for lag in lags), strict=True)  # noqa: E731
    for context, token in zip(contexts(train), train[last:].tolist(), strict=True):
        seen = counts.setdefault(context, {})
        seen[token] = seen.get(token, 0) + 1
    losses = []
    for context, token in zip(contexts(held_out), held_out[last:].tolist(), strict=True):
        seen = counts.get(context, {})
        total = sum(seen.values())
        losses.append(-math.log((seen.get(token, 0) + 20 * base[token]) / (total + 20)))
    return np.mean(losses)


def test_short_memories_stay_far_above_the_targets(ids):
    train, held_out, size = ids["train"], ids["held_out"], demo.VOCABULARY
    losses = {
        "uniform": math.log(size),
        "unigram": unigram(train, held_out, size),
        "bigram": ngram(train, held_out, size, (1,)),
        "trigram": ngram(train, held_out, size, (1, 2)),
    }
    assert min(losses.values()) > TARGET + MARGIN, losses
    assert min(losses.values()) > math.log(demo.NUM_WORDS) - 0.05
    # Who looks six words back, and knows which word follows which, is far below them.
    assert ngram(train, held_out, size, (6,)) < TARGET


def test_shuffled_tokens_cannot_be_learned(ids):
    rng = np.random.default_rng(0)
    train, held_out = (rng.permutation(ids[split]) for split in ("train", "held_out"))
    assert ngram(train, held_out, demo.VOCABULARY, (6,)) > TARGET + MARGIN
