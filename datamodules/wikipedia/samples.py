"""Text to masked samples exactly as the reference makes them, in compiled code.

One random generator is used throughout in the reference's order of calls, so a given text and
seed produce the reference's samples bit for bit. Letters: N samples, T their concatenated tokens,
M their concatenated masked positions.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from datamodules.wikipedia.mersenne import below, seeded, shuffle, uniform


@dataclass(frozen=True)
class Articles:
    """Tokenised articles; no article and no sentence is empty."""

    tokens: np.ndarray
    """(tokens,) int32, all sentences concatenated."""
    sentence_starts: np.ndarray
    """(sentences + 1,) int64 into ``tokens``."""
    article_starts: np.ndarray
    """(articles + 1,) int64 into the sentences."""


@dataclass(frozen=True)
class Recipe:
    """Settings of the samples; the defaults are the closed reference's."""

    max_seq_length: int = 512
    max_predictions: int = 76
    masked_lm_prob: float = 0.15
    short_seq_prob: float = 0.1
    dupe_factor: int = 10
    seed: int = 12345

    def problems(self) -> list[str]:
        """List the settings with which no sample can be made, one line each."""
        lines = [
            f"{name} must be at least 1, got {getattr(self, name)}"
            for name in ("max_predictions", "dupe_factor")
            if getattr(self, name) < 1
        ]
        lines += [
            f"{name} must be in [0, 1], got {getattr(self, name)}"
            for name in ("masked_lm_prob", "short_seq_prob")
            if not 0 <= getattr(self, name) <= 1
        ]
        if not 5 <= self.max_seq_length <= 2**16:
            lines.append(f"max_seq_length must be from 5 to 65536, got {self.max_seq_length}")
        return lines


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the tokens that samples are built with."""

    cls: int
    sep: int
    mask: int
    vocab_size: int


@dataclass(frozen=True)
class Samples:
    """Samples without padding."""

    tokens: np.ndarray
    """(T,) int32 ids, masked, with [CLS] and both [SEP]."""
    token_starts: np.ndarray
    """(N + 1,) int64 into ``tokens``."""
    first_lengths: np.ndarray
    """(N,) int32 tokens of segment 0: [CLS] A [SEP]."""
    positions: np.ndarray
    """(M,) int32 masked positions, counted from the sample's start, ascending."""
    labels: np.ndarray
    """(M,) int32 original ids at these positions."""
    mask_starts: np.ndarray
    """(N + 1,) int64 into ``positions``."""
    random_next: np.ndarray
    """(N,) uint8: 1 if segment B is from another article, 0 if it follows A."""


def make_samples(articles: Articles, recipe: Recipe, special: SpecialIds) -> Samples:
    """Make all samples of one text file, in the shuffled order of the reference's output.

    Args:
        articles: The file's articles in file order, at least one.
        recipe: Lengths, rates and the seed.
        special: Ids of the special tokens and the vocabulary's size.

    Returns:
        The samples.

    Source:
        mlcommons/training @ 9947bdf2, language_model/tensorflow/bert/cleanup_scripts/
        create_pretraining_data.py. Differs: no padding and no tf.Example; the draws are equal.
    """
    arrays = _make(
        articles.tokens,
        articles.sentence_starts,
        articles.article_starts,
        seeded(recipe.seed),
        recipe.max_seq_length,
        recipe.max_predictions,
        recipe.masked_lm_prob,
        recipe.short_seq_prob,
        recipe.dupe_factor,
        (special.cls, special.sep, special.mask, special.vocab_size),
    )
    return Samples(*arrays)


@njit(cache=True)
def _grown(array, needed):  # type: ignore[no-untyped-def]
    """Return the array, or a copy of at least twice its size if it is too small."""
    length = array.shape[0]
    if needed <= length:
        return array
    larger = np.empty((max(needed, 2 * length), *array.shape[1:]), array.dtype)
    larger[:length] = array
    return larger


@njit(cache=True)
def _truncate(state, bounds, limit):  # type: ignore[no-untyped-def]
    """Shorten the longer segment, at a random end each time, until both fit."""
    while (bounds[1] - bounds[0]) + (bounds[3] - bounds[2]) > limit:
        longer = 0 if bounds[1] - bounds[0] > bounds[3] - bounds[2] else 2
        if uniform(state) < 0.5:
            bounds[longer] += 1
        else:
            bounds[longer + 1] -= 1


@njit(cache=True)
def _mask(state, sample, first_length, rates, special, candidates, chosen):  # type: ignore[no-untyped-def]
    """Mask a sample in place; writes sorted positions to ``chosen`` and returns their number."""
    max_predictions, probability = rates
    count = 0
    for position in range(1, sample.size - 1):
        if position != first_length - 1:  # the [SEP] between the segments
            candidates[count] = position
            count += 1
    shuffle(state, candidates, count)
    wanted = int(np.rint(sample.size * probability))
    wanted = min(max_predictions, max(1, wanted), count)
    for i in range(wanted):
        position = candidates[i]
        chosen[i, 0], chosen[i, 1] = position, sample[position]
        # 80 % become [MASK], 10 % a random word, 10 % stay. One draw decides 0.8, a second one the
        # rest, as in the reference.
        if uniform(state) < 0.8:
            sample[position] = special[2]
        elif uniform(state) >= 0.5:
            sample[position] = below(state, special[3])
    order = np.argsort(chosen[:wanted, 0])
    chosen[:wanted] = chosen[:wanted][order]
    return wanted


@njit(cache=True)
def _second_segment(  # type: ignore[no-untyped-def]
    state, sentence_starts, article_starts, order, number, wanted
):
    """Return bounds at a random place in another article, of ``wanted`` tokens if possible."""
    other = number
    # Ten attempts, as in the reference: with one article it has to be this one.
    for _ in range(10):
        other = below(state, order.size)
        if other != number:
            break
    first, end = article_starts[order[other]], article_starts[order[other] + 1]
    start = first + below(state, end - first)
    stop = start + 1
    while stop < end and sentence_starts[stop] - sentence_starts[start] < wanted:
        stop += 1
    return sentence_starts[start], sentence_starts[stop]


@njit(cache=True)
def _shuffled(state, tokens, starts, firsts, masks, mask_starts, nexts):  # type: ignore[no-untyped-def]
    """Return the samples in their final random order."""
    order = np.arange(starts.size - 1)
    shuffle(state, order, order.size)
    out_tokens, out_masks = np.empty_like(tokens), np.empty_like(masks)
    out_starts, out_mask_starts = np.zeros_like(starts), np.zeros_like(mask_starts)
    for i in range(order.size):
        s = order[i]
        a, b = out_starts[i], out_starts[i] + starts[s + 1] - starts[s]
        out_tokens[a:b] = tokens[starts[s] : starts[s + 1]]
        out_starts[i + 1] = b
        a, b = out_mask_starts[i], out_mask_starts[i] + mask_starts[s + 1] - mask_starts[s]
        out_masks[a:b] = masks[mask_starts[s] : mask_starts[s + 1]]
        out_mask_starts[i + 1] = b
    positions, labels = out_masks[:, 0].copy(), out_masks[:, 1].copy()
    return out_tokens, out_starts, firsts[order], positions, labels, out_mask_starts, nexts[order]


@njit(cache=True)
def _next_pair(  # type: ignore[no-untyped-def]
    state, sentence_starts, article_starts, order, number, i, target, bounds
):
    """Set the bounds of the pair starting at sentence i; returns the next i and the pair's kind."""
    end = article_starts[order[number] + 1]
    stop = i + 1
    while stop < end and sentence_starts[stop] - sentence_starts[i] < target:
        stop += 1
    a_end = i + 1
    if stop - i >= 2:
        a_end += below(state, stop - i - 1)
    bounds[0], bounds[1] = sentence_starts[i], sentence_starts[a_end]
    # No draw for a single sentence, which nothing can follow.
    if stop - i == 1 or uniform(state) < 0.5:
        bounds[2], bounds[3] = _second_segment(
            state, sentence_starts, article_starts, order, number, target - (bounds[1] - bounds[0])
        )
        return a_end, True  # unused sentences are used again
    bounds[2], bounds[3] = sentence_starts[a_end], sentence_starts[stop]
    return stop, False


@njit(cache=True)
def _write(tokens, bounds, special, out):  # type: ignore[no-untyped-def]
    """Write [CLS] A [SEP] B [SEP]."""
    middle = 1 + bounds[1] - bounds[0]
    out[0], out[middle], out[-1] = special[0], special[1], special[1]
    out[1:middle] = tokens[bounds[0] : bounds[1]]
    out[middle + 1 : -1] = tokens[bounds[2] : bounds[3]]


@njit(cache=True)
def _make(  # type: ignore[no-untyped-def]
    tokens, sentence_starts, article_starts, state, max_length, max_predictions, probability,
    short_probability, passes, special,
):  # fmt: skip
    """Make samples article by article, into arrays that grow."""
    limit, rates = max_length - 3, (max_predictions, probability)
    order = np.arange(article_starts.size - 1)
    shuffle(state, order, order.size)
    out, starts = np.empty(1 << 16, np.int32), np.zeros(1 << 10, np.int64)
    masks, mask_starts = np.empty((1 << 14, 2), np.int32), np.zeros(1 << 10, np.int64)
    firsts, nexts = np.empty(1 << 10, np.int32), np.empty(1 << 10, np.uint8)
    candidates, chosen = np.empty(max_length, np.int64), np.empty((max_predictions, 2), np.int32)
    bounds, n = np.empty(4, np.int64), 0
    for turn in range(passes * order.size):
        number = turn % order.size
        target = limit
        if uniform(state) < short_probability:
            target = 2 + below(state, limit - 1)
        i = article_starts[order[number]]
        while i < article_starts[order[number] + 1]:
            i, is_random = _next_pair(
                state, sentence_starts, article_starts, order, number, i, target, bounds
            )
            _truncate(state, bounds, limit)
            first_length, at = bounds[1] - bounds[0] + 2, starts[n]
            stop = at + first_length + bounds[3] - bounds[2] + 1
            out, masks = _grown(out, stop), _grown(masks, mask_starts[n] + max_predictions)
            starts, mask_starts = _grown(starts, n + 2), _grown(mask_starts, n + 2)
            firsts, nexts = _grown(firsts, n + 1), _grown(nexts, n + 1)
            sample = out[at:stop]
            _write(tokens, bounds, special, sample)
            wanted = _mask(state, sample, first_length, rates, special, candidates, chosen)
            mask_stop = mask_starts[n] + wanted
            masks[mask_starts[n] : mask_stop] = chosen[:wanted]
            starts[n + 1], mask_starts[n + 1] = stop, mask_stop
            firsts[n], nexts[n] = first_length, is_random
            n += 1
    out, masks = out[: starts[n]], masks[: mask_starts[n]]
    starts, mask_starts = starts[: n + 1], mask_starts[: n + 1]
    return _shuffled(state, out, starts, firsts[:n], masks, mask_starts, nexts[:n])
