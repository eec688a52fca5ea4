"""Word errors: known pairs, jiwer, and an independent count."""

import random
from functools import cache

import jiwer
import pytest

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
