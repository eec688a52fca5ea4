"""Text with masked words from outside the data set.

Letters: T tokens, M masked positions.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from datamodules.common.inputs import input_text, text_name
from datamodules.wikipedia.batches import Sample, pack
from datamodules.wikipedia.tokens import Vocabulary, WordPieces

MASK = "[MASK]"
WHAT = f"a text file with {MASK} in it, or such a text in quotes"

# Per masked position: ids and probabilities of the best candidates.
Candidates = Sequence[Sequence[tuple[int, float]]]


def read_masked_text(source: str, vocabulary: Vocabulary, longest: int) -> dict[str, Any]:
    """Read a text as a packed batch of one sample: [CLS] A [SEP] or [CLS] A [SEP] B [SEP].

    Args:
        source: A text file, or the text itself. An empty line separates A and B.
        vocabulary: Word pieces.
        longest: Most tokens, special ones counted.

    Returns:
        A ``PackedBatch``.

    Raises:
        OSError: If it is no file and has no ``[MASK]``.
        ValueError: If a file's text has none, or there are too many tokens.
    """
    text = _text_of(source)
    first, _, second = text.strip().replace("\r", "").partition("\n\n")
    pieces = WordPieces(vocabulary)
    segments = [_ids(part, pieces, vocabulary) for part in (first, second) if part.strip()]
    tokens = [vocabulary["[CLS]"]]
    for segment in segments:
        tokens += [*segment, vocabulary["[SEP]"]]
    if len(tokens) > longest:
        raise ValueError(
            f"{text_name(source)}: {len(tokens)} tokens, at most {longest} fit "
            "(data.max_seq_length)"
        )
    token_T = np.array(tokens, np.uint16)
    positions_M = np.flatnonzero(token_T == vocabulary[MASK])
    sample = Sample(
        tokens=token_T,
        first_length=len(segments[0]) + 2,
        positions=positions_M,
        labels=token_T[positions_M],
        random_next=0,
    )
    return dict(pack([sample], [0]))


def _text_of(source: str) -> str:
    if MASK in source and not os.path.isfile(source):
        return source
    text = input_text(source, WHAT)
    if MASK not in text:
        raise ValueError(f"{source}: has no {MASK}; write it in place of each word to fill in")
    return text


def _ids(text: str, pieces: WordPieces, vocabulary: Vocabulary) -> list[int]:
    """Return the ids of a text; a mask is a word of its own, whatever is next to it."""
    parts = [[i for line in pieces.lines(part) for i in line] for part in text.split(MASK)]
    ids = parts[0]
    for part in parts[1:]:
        ids = [*ids, vocabulary[MASK], *part]
    return ids


def describe_words(
    batch: Any, candidates: Candidates, words: Sequence[str]
) -> tuple[list[str], str]:
    """Describe what was filled in.

    Args:
        batch: From ``read_masked_text``.
        candidates: Best first.
        words: Word pieces by id.

    Returns:
        The best word of each position; and the filled-in text with a line per position.
    """
    seen = [_word(i, words) for i in batch["input_ids"].tolist()]
    index = batch["masked_index"].tolist()
    best = [_word(rows[0][0], words) for rows in candidates]
    for position, word in zip(index, best, strict=True):
        seen[position] = f"<{word}>"
    text = " ".join(word for word in seen[1:-1] if word != "[SEP]").replace(" ##", "")
    lines = [text, ""]
    for number, rows in enumerate(candidates, 1):
        shown = ", ".join(f"{_word(i, words)} {share:.1%}" for i, share in rows)
        lines.append(f"{MASK} {number}: {shown}")
    return best, "\n".join(lines) + "\n"


def _word(number: int, words: Sequence[str]) -> str:
    # A network may know more words than the data.
    return words[number] if number < len(words) else f"[word {number}]"


def mask_a_word(article: str) -> str:
    """Return an article's first two sentences, as A and B, with one word of B masked."""
    first, second, *_ = [*article.splitlines(), ""]
    words = (second or first).split()
    words[len(words) // 3] = MASK
    return f"{first}\n\n{' '.join(words)}" if second else " ".join(words)
