"""The data module at settings for a small data set, and a sum over its held-out text."""

import hashlib

from datamodules.wikipedia import WikipediaDataModule
from datamodules.wikipedia.demo import VOCAB_SIZE

SMALL = {"max_seq_length": 64, "max_predictions": 10, "dupe_factor": 2, "num_parts": 3,
         "num_eval_samples": 120, "vocab_size": VOCAB_SIZE, "batch_size": 8,
         "published_text": False}  # fmt: skip


def module(root, **settings):
    """Build the data module; settings given replace the small ones."""
    return WikipediaDataModule(root=root, **{**SMALL, **settings})


def eval_md5(folder):
    """Return the MD5 of each held-out article."""
    articles = (folder / "eval.txt").read_text().removesuffix("\n").split("\n\n")
    return [hashlib.md5(a.encode()).hexdigest() for a in articles]
