"""Word errors: how many words must change to make one text another."""

from collections.abc import Sequence


def edit_distance(hypothesis: Sequence[object], reference: Sequence[object]) -> int:
    """Least number of insertions, deletions and substitutions between two sequences.

    Args:
        hypothesis: Items that can be compared, such as words.
        reference: The same.

    Returns:
        The Levenshtein distance.
    """
    row = list(range(len(hypothesis) + 1))
    for count, wanted in enumerate(reference, 1):
        diagonal, row[0] = row[0], count
        for place, heard in enumerate(hypothesis, 1):
            best = min(row[place] + 1, row[place - 1] + 1, diagonal + (heard != wanted))
            diagonal, row[place] = row[place], best
    return row[-1]


def word_errors(hypothesis: str, reference: str) -> tuple[int, int]:
    """Errors and length of one utterance, whose sums over all utterances give the word error rate.

    Args:
        hypothesis: Text heard; words are what whitespace separates.
        reference: Text spoken.

    Returns:
        Word errors and the number of words of the reference.
    """
    spoken = reference.split()
    return edit_distance(hypothesis.split(), spoken), len(spoken)
