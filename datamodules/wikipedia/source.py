"""The text files of a preparation and their checks."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from datamodules.wikipedia.samples import Recipe
from datamodules.wikipedia.text import read_text, split_articles
from datamodules.wikipedia.tokens import Vocabulary, read_vocabulary

SHARD_FORMAT = 1
MD5_LIST = "bert_reference_results_text_md5.txt"
EVALUATION = "eval"


@dataclass(frozen=True)
class Source:
    vocab_path: Path
    vocab_size: int | None
    """Lines that the vocabulary must have; None accepts any number."""
    train: Mapping[int, Path]
    """Part number -> file."""
    evaluation: Path
    evaluation_md5s: Path
    num_eval_samples: int
    recipe: Recipe
    checksums: Mapping[str, str]
    """File name -> required MD5; empty accepts any text."""

    def settings(self) -> dict[str, Any]:
        """Return everything besides the text that the shards depend on."""
        vocabulary = hashlib.md5(read_vocabulary(self.vocab_path)).hexdigest()
        evaluation = {"num_eval_samples": self.num_eval_samples}
        return asdict(self.recipe) | evaluation | {"vocabulary_md5": vocabulary}

    def fingerprint(self) -> str:
        """Hash the settings; each shard holds it."""
        vocabulary = hashlib.md5(read_vocabulary(self.vocab_path)).hexdigest()
        parts = [SHARD_FORMAT, asdict(self.recipe), vocabulary, self.num_eval_samples]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def files(self) -> dict[str, Path]:
        """Return the text files by shard name: ``train-00012`` -> its part, and ``eval``."""
        train = {f"train-{number:05d}": path for number, path in self.train.items()}
        return {**train, EVALUATION: self.evaluation}


def reference_checksums(folder: Path) -> dict[str, str]:
    """Return the published files' MD5s by file name.

    A list ``MD5_LIST`` in the text directory or next to it adds parts that the built-in list lacks.
    """
    text = (resources.files("datamodules.wikipedia") / "data" / "wikipedia_md5.txt").read_text()
    for directory in (folder, folder.parent):
        listed = directory / MD5_LIST
        if listed.is_file():
            text = listed.read_text() + "\n" + text
    pairs = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    return {Path(pair[1]).name: pair[0] for pair in pairs if len(pair) == 2}


def check_vocabulary(source: Source) -> None:
    """Raise if the vocabulary has another size, or is not the published one where required."""
    path = source.vocab_path
    Vocabulary.read(path, source.vocab_size)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    if md5 != source.checksums.get("vocab.txt", md5):
        raise ValueError(
            f"{path}: MD5 {md5}, but the published file has {source.checksums['vocab.txt']}; fetch "
            "it again, or accept another one with --data.published_text false (open division)"
        )


def check_evaluation(source: Source) -> None:
    """Raise if the held-out text is neither the published one nor equal to its own list."""
    text, md5 = read_text(source.evaluation)
    published = source.checksums
    if not published and not source.evaluation_md5s.is_file():
        return  # own text needs no list
    listed_text, listed_md5 = read_text(source.evaluation_md5s)
    if published:
        for path, got in ((source.evaluation, md5), (source.evaluation_md5s, listed_md5)):
            if got != published[path.name]:
                raise ValueError(
                    f"{path}: MD5 {got}, but the published file has {published[path.name]}; "
                    "fetch it again: the 10,000 evaluation articles are fixed"
                )
        return
    listed, articles = listed_text.split(), split_articles(text)
    if len(listed) != len(articles):
        raise ValueError(
            f"{source.evaluation}: {len(articles)} articles, but {source.evaluation_md5s.name} "
            f"lists {len(listed)}"
        )
    for number, (article, wanted) in enumerate(zip(articles, listed, strict=True)):
        if (got := hashlib.md5(article.encode()).hexdigest()) != wanted:
            raise ValueError(
                f"{source.evaluation}: article {number} has MD5 {got}, but "
                f"{source.evaluation_md5s.name} lists {wanted}; the held-out text was changed"
            )
