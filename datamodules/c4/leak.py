"""Held-out documents that are training documents too."""

import hashlib

import numpy as np

from datamodules.c4.indexed import Pair, map_lengths, map_tokens, read_header

SHORTEST = 16  # tokens; shorter texts, such as error pages, are equal by chance
COMPARED = 8  # first tokens, before whole documents are compared
PRIME = np.uint64(1_099_511_628_211)


def leak_line(train: Pair, held_out: Pair) -> str | None:
    """Return a line if held-out documents of some length are in the training file; else None."""
    theirs = _Documents(held_out)
    wanted = {theirs.digest(i): i for i in np.flatnonzero(theirs.long).tolist()}
    ours = _Documents(train)
    likely = ours.long & np.isin(ours.keys(), theirs.keys()[theirs.long])
    found = [
        (i, j)
        for i in np.flatnonzero(likely).tolist()
        if (j := wanted.get(ours.digest(i))) is not None
    ]
    if not found:
        return None
    (first, twin), count = found[0], len(found)
    return (
        f"{train.bin}: {count:,} documents are also in {held_out.bin.name}, such as document "
        f"{first:,}, which is {twin:,} there: the evaluation would measure what was learnt by "
        "heart; remove them from one of the two"
    )


class _Documents:
    def __init__(self, pair: Pair) -> None:
        index = read_header(pair.idx)
        self.lengths = map_lengths(pair.idx, index.documents)
        self.tokens = map_tokens(pair.bin, index.dtype)
        self.starts = np.cumsum(self.lengths, dtype=np.int64) - self.lengths
        self.long = self.lengths >= SHORTEST

    def keys(self) -> np.ndarray:
        """Return (N,) uint64 from each document's length and first tokens; of short ones any."""
        last = max(0, self.tokens.size - 1)
        keys = self.lengths.astype(np.uint64)
        for place in range(COMPARED):
            first = self.tokens[np.minimum(self.starts + place, last)] if self.tokens.size else 0
            keys = keys * PRIME + np.asarray(first).astype(np.uint64)
        return keys

    def digest(self, document: int) -> bytes:
        start = self.starts[document]
        ids = self.tokens[start : start + self.lengths[document]].astype(np.int64)
        return hashlib.md5(ids.tobytes()).digest()
