"""Word errors: known pairs, jiwer, and an independent count."""

import random
import statistics
import time
from functools import cache

import jiwer
import pytest
from rapidfuzz.distance import Levenshtein

from modules.rnnt.word_errors import word_errors


def count_by_definition(hypothesis, reference):
    """Least edits between two word lists, by the recursive definition."""

    @cache
    def least(i, j):
        if i == 0 or j == 0:
            return i + j
        replaced = least(i - 1, j - 1) + (hypothesis[i - 1] != reference[j - 1])
        return min(least(i - 1, j) + 1, least(i, j - 1) + 1, replaced)

    return least(len(hypothesis), len(reference))


def sentences(words, number, seed, least=0):
    draw = random.Random(seed)
    return [" ".join(draw.choices(words, k=draw.randrange(least, 14))) for _ in range(number)]


@pytest.mark.parametrize(
    ("hypothesis", "reference", "errors"),
    [
        ("a b c", "a b c", 0), ("a x c", "a b c", 1), ("a c", "a b c", 1), ("a b b c", "a b c", 1),
        ("", "a b c", 3), ("x y z w", "a b", 4), ("b c a", "a b c", 2), ("a", "", 1), ("", "", 0),
        ("  two   spaces ", "two spaces", 0), ("it's", "its", 1),
    ],
)  # fmt: skip
def test_word_errors_of_known_pairs(hypothesis, reference, errors):
    assert word_errors(hypothesis, reference) == (errors, len(reference.split()))


@pytest.mark.parametrize("words", ["abcdef", ("the", "then", "he", "hen", "né", "日本")])
def test_word_errors_equal_the_definition(words):
    pairs = zip(sentences(words, 500, seed=1), sentences(words, 500, seed=2), strict=True)
    for hypothesis, reference in pairs:
        errors, length = word_errors(hypothesis, reference)
        spoken = tuple(reference.split())
        assert errors == count_by_definition(tuple(hypothesis.split()), spoken)
        assert length == len(spoken)


def test_word_errors_equal_jiwer():
    hypotheses = sentences("abcdef", 300, seed=3)
    references = sentences("abcdef", 300, seed=4, least=1)
    pairs = [word_errors(h, r) for h, r in zip(hypotheses, references, strict=True)]
    rate = sum(errors for errors, _ in pairs) / sum(words for _, words in pairs)
    assert rate == pytest.approx(jiwer.wer(references, hypotheses), abs=1e-12)


@pytest.mark.speed
def test_word_errors_are_counted_as_fast_as_rapidfuzz_and_faster_than_jiwer():
    generator = random.Random(0)
    words = [f"word{n}" for n in range(500)]
    references = [" ".join(generator.choices(words, k=20)) for _ in range(2703)]
    hypotheses = [
        " ".join(word for word in text.split() if generator.random() > 0.1) for text in references
    ]
    pairs = list(zip(hypotheses, references, strict=True))
    variants = {
        "ours": lambda: [word_errors(*pair) for pair in pairs],
        "rapidfuzz": lambda: [Levenshtein.distance(a.split(), b.split()) for a, b in pairs],
        "jiwer": lambda: jiwer.wer(references, hypotheses),
    }
    seconds = {name: [] for name in variants}
    for _ in range(7):
        for name, count in variants.items():
            start = time.process_time()
            count()
            seconds[name].append(time.process_time() - start)
    for peer, most in (("rapidfuzz", 1.15), ("jiwer", 0.7)):
        ratios = [a / b for a, b in zip(seconds["ours"], seconds[peer], strict=True)]
        print(f"word errors / {peer}: {statistics.median(ratios):.2f}")
        assert statistics.median(ratios) <= most
