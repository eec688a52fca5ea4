"""Preparation of cleaned Wikipedia text: each text file becomes one shard of samples.

Facts: the manifest is all that a later run reads.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.common.process_pool import outcomes, processes_for
from datamodules.wikipedia.samples import Recipe, Samples, SpecialIds, make_samples
from datamodules.wikipedia.shards import open_shard, read_facts, write_shard
from datamodules.wikipedia.text import read_text, split_articles, tokenise
from datamodules.wikipedia.tokens import Vocabulary, WordPieces

FORMAT = 1
MANIFEST = "manifest.json"
MD5_LIST = "bert_reference_results_text_md5.txt"
EVALUATION = "eval"
# 27 MB of text as Python strings, then about 300,000 samples in 32 bits, three times.
WORKER_BYTES = 3_000_000_000
# For less text, starting a process costs more than the work.
SERIAL_BYTES = 20_000_000
REPEATED_SHARE_LIMIT = 0.5


@dataclass(frozen=True)
class Source:
    vocab_path: Path
    vocab_size: int
    train: Mapping[int, Path]
    """Part number -> file."""
    evaluation: Path
    evaluation_md5s: Path
    num_eval_samples: int
    recipe: Recipe
    checksums: Mapping[str, str]
    """File name -> required MD5; empty accepts any text."""

    def fingerprint(self) -> str:
        """Hash everything besides the text that the shards depend on."""
        words = hashlib.md5(self.vocab_path.read_bytes()).hexdigest()
        parts = [FORMAT, asdict(self.recipe), words, self.num_eval_samples]
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


def read_manifest(folder: Path, source_names: list[str]) -> dict[str, Any] | None:
    """Return the manifest if all wanted shards exist, else None; opens no shard."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        shards, known = manifest["shards"], manifest["format"] == FORMAT
    except (ValueError, KeyError, TypeError):
        return None
    ready = all(name in shards and shard_path(folder, name).is_file() for name in source_names)
    return manifest if ready and known else None


def check_shards_match(source: Source, out: Path, shards: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise for prepared shards of other settings, vocabulary or text; reads no text."""
    fingerprint = source.fingerprint()
    for name in [name for name in source.files() if name in shards]:
        path, facts = shard_path(out, name), shards[name]
        if facts["fingerprint"] != fingerprint:
            raise ValueError(
                f"{path} was prepared with other settings or another vocabulary; pass another "
                "directory with --data.prepared_dir"
            )
        wanted = source.checksums.get(facts["file"], facts["md5"])
        if facts["md5"] != wanted:
            raise ValueError(
                f"{path} was prepared from other text (MD5 {facts['md5']}, but the published "
                f"{facts['file']} has {wanted}); delete it and run prepare again, or accept it "
                "with --data.published_text false (open division)"
            )


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


def shard_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"


def build(
    source: Source, out: Path, *, processes: int = 0, show_progress: bool = False
) -> dict[str, Any]:
    """Make the missing shards, check all of them, and write the manifest.

    Args:
        source: Text and settings.
        out: Prepared directory.
        processes: Worker processes; 0 chooses by cores and memory.
        show_progress: Draw a progress bar.

    Returns:
        The manifest.

    Raises:
        ValueError: One line per problem; finished shards are kept.
    """
    check_evaluation(source)
    check_vocabulary(source)
    fingerprint = source.fingerprint()
    out.mkdir(parents=True, exist_ok=True)
    files, done = source.files(), {}
    for name in files:
        if (path := shard_path(out, name)).is_file():
            done[name] = read_facts(path)
    check_shards_match(source, out, done)
    todo = [name for name in files if name not in done]
    small = sum(files[name].stat().st_size for name in todo) < SERIAL_BYTES
    workers = 1 if small else processes or processes_for(len(todo), WORKER_BYTES)
    job = partial(build_shard, source=source, out=out, fingerprint=fingerprint)
    problems = []
    for outcome in outcomes(job, todo, workers, "tokenising", show_progress=show_progress):
        if isinstance(outcome, str):
            problems.append(outcome)
        else:
            done[outcome["name"]] = outcome
    if problems:
        raise ValueError("\n".join(problems))
    repeated = check_repetition(out, done)
    manifest = {"format": FORMAT, "shards": done, "repeated_articles": repeated}
    partial_path = out / f"{MANIFEST}.partial"
    partial_path.write_text(json.dumps(manifest, indent=1))
    partial_path.replace(out / MANIFEST)
    return manifest


def build_shard(name: str, source: Source, out: Path, fingerprint: str) -> dict[str, Any]:
    """Make one shard and return its record; ValueError for other text or without an article."""
    path = source.files()[name]
    text, md5 = read_text(path)
    if name != EVALUATION and md5 != source.checksums.get(path.name, md5):
        raise ValueError(
            f"{path}: MD5 {md5}, but the published file has {source.checksums[path.name]}; fetch "
            "it again, or accept other text with --data.published_text false (open division)"
        )
    vocabulary = Vocabulary.read(source.vocab_path, source.vocab_size)
    articles = tokenise(text, WordPieces(vocabulary))
    if articles.article_starts.size < 2:
        raise ValueError(f"{path} contains no article")
    special = SpecialIds(
        vocabulary["[CLS]"], vocabulary["[SEP]"], vocabulary["[MASK]"], len(vocabulary)
    )
    samples = make_samples(articles, source.recipe, special)
    if name == EVALUATION:
        samples = pick_evaluation(samples, source.num_eval_samples, path)
    lengths = np.diff(samples.token_starts)
    facts = {
        "name": name,
        "file": path.name,
        "md5": md5,
        "samples": int(lengths.size),
        "tokens": int(samples.token_starts[-1]),
        "length_quantiles": np.quantile(lengths, np.linspace(0, 1, 33)).astype(int).tolist(),
        "fingerprint": fingerprint,
    }
    write_shard(shard_path(out, name), samples, article_hashes(text), facts)
    return facts


def pick_evaluation(samples: Samples, count: int, path: Path) -> Samples:
    """Pick the evaluation samples: number ``int(i * ratio)`` for each i.

    Source: mlcommons/training @ 9947bdf2, language_model/tensorflow/bert/cleanup_scripts/
    pick_eval_samples.py.
    """
    total = samples.first_lengths.size
    if total < count:
        raise ValueError(
            f"{path} yields {total} samples but {count} are needed (--data.num_eval_samples)"
        )
    ratio = total / count
    picked = np.array([int(i * ratio) for i in range(count)])
    tokens, token_starts = _gather(samples.tokens, samples.token_starts, picked)
    positions, mask_starts = _gather(samples.positions, samples.mask_starts, picked)
    labels, _ = _gather(samples.labels, samples.mask_starts, picked)
    return Samples(
        tokens,
        token_starts,
        samples.first_lengths[picked],
        positions,
        labels,
        mask_starts,
        samples.random_next[picked],
    )


def check_evaluation(source: Source) -> None:
    """Raise if the held-out text is neither the published one nor equal to its own list."""
    text, md5 = read_text(source.evaluation)
    listed_text, listed_md5 = read_text(source.evaluation_md5s)
    published = source.checksums
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


def check_repetition(out: Path, shards: Mapping[str, Mapping[str, Any]]) -> int:
    """Raise for identical parts or mostly repeated articles; return the number of repeats."""
    seen: dict[str, str] = {}
    for facts in shards.values():
        if facts["md5"] in seen:
            raise ValueError(
                f"{facts['file']} and {seen[facts['md5']]} are identical; the text was copied or "
                "shuffled wrongly; fetch it again"
            )
        seen[facts["md5"]] = facts["file"]
    hashes = np.concatenate([open_shard(shard_path(out, name))["articles"] for name in shards])
    repeated = hashes.size - np.unique(hashes).size
    if repeated > REPEATED_SHARE_LIMIT * hashes.size:
        raise ValueError(
            f"{repeated} of {hashes.size} articles are repeated; the text was assembled wrongly"
        )
    return int(repeated)


def article_hashes(text: str) -> np.ndarray:
    """Return a 64-bit hash of each non-empty article, (articles,) uint64."""
    articles = [article.encode() for article in split_articles(text) if article]
    digests = b"".join(hashlib.md5(article).digest()[:8] for article in articles)
    return np.frombuffer(digests, dtype=np.uint64)


def _gather(values: np.ndarray, starts: np.ndarray, rows: np.ndarray) -> tuple[Any, Any]:
    """Select rows of a ragged array; returns them and their new starts."""
    parts = [values[starts[row] : starts[row + 1]] for row in rows]
    return np.concatenate(parts), np.concatenate([[0], np.cumsum([part.size for part in parts])])
