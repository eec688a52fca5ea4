"""LibriSpeech without its files, for ``speed --synthetic``: durations, labels and a vocabulary."""

from collections.abc import Mapping, Sequence

import numpy as np

from datamodules.librispeech.flac import SAMPLE_RATE
from datamodules.librispeech.manifest import Manifest
from datamodules.librispeech.subsets import TRAIN_SUBSETS, UTTERANCES

# Seconds of an utterance at quantiles. Estimates whose means are those of the published hours:
# 12.3 s for 961 hours of 281,241 utterances, 7.2 s for 5.4 hours of 2,703.
TRAIN_SECONDS = {0: 1.4, 0.1: 4.5, 0.25: 11, 0.5: 13.9, 0.75: 15.2, 1: 16.7}
DEV_SECONDS = {0: 1.4, 0.5: 5.4, 0.8: 10, 0.95: 16, 1: 32}
LABELS_PER_SECOND = 4.5  # 2.7 words, each of 1 to 2 of the 1,023 pieces
NUMBERS = 1000  # durations that stand for all


def manifest(
    vocab_size: int, totals: Mapping[str, int] | None = None, max_duration: float = 16.7
) -> Manifest:
    """Return a manifest like that of the prepared LibriSpeech, each duration for many utterances.

    The numbers of training utterances are the published ones, or ``totals`` by split; so are those
    of an epoch's steps. No training utterance is longer than ``max_duration`` in seconds.
    """
    train = sum(UTTERANCES[name] for name in TRAIN_SUBSETS)
    totals = totals or {"train": train, "dev": UTTERANCES["dev-clean"]}
    train_seconds = {share: min(n, max_duration) for share, n in TRAIN_SECONDS.items()}
    num_samples = {
        "train": _durations(train_seconds, totals["train"]),
        "dev": _durations(DEV_SECONDS, totals["dev"]),
    }
    most_labels = round(LABELS_PER_SECOND * max(train_seconds.values()))
    return Manifest(vocab_size, num_samples, most_labels)


def _durations(seconds: dict[float, float], count: int) -> list[int]:
    share = np.linspace(0, 1, count)
    return (np.interp(share, [*seconds], [*seconds.values()]) * SAMPLE_RATE).astype(int).tolist()


class Numbers:
    """A vocabulary whose words are the numbers of its labels."""

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))
