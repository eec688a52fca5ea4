"""Preparation of cleaned Wikipedia text: each text file becomes one shard of samples."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.common import records
from datamodules.common.preparation import Done, Preparation, Unit, missing_space, preparing
from datamodules.common.progress import stage
from datamodules.common.records import raw_file
from datamodules.wikipedia.samples import Samples, SpecialIds, make_samples
from datamodules.wikipedia.shards import open_shard, read_facts, write_shard
from datamodules.wikipedia.source import (
    EVALUATION,
    Source,
    check_evaluation,
    check_vocabulary,
    reference_checksums,
)
from datamodules.wikipedia.text import read_text, split_articles, tokenise
from datamodules.wikipedia.tokens import Vocabulary, WordPieces

DATASET, VERSION = "wikipedia", 2
# 27 MB of text as Python strings, then about 300,000 samples in 32 bits, three times.
WORKER_BYTES = 3_000_000_000
BYTES_PER_TEXT_BYTE = 10  # of a shard, about
# For smaller shards, starting a process costs more than the work.
SERIAL_BYTES = 200_000_000
REPEATED_SHARE_LIMIT = 0.5
UNKNOWN_SHARE_LIMIT = 0.05  # of the word pieces; the published text has 0.01 %
UNKNOWN_NAMED = 5


def read_manifest(source: Source, out: Path, *, replace: bool = False) -> dict[str, Any] | None:
    """Return the manifest if all of the source's shards exist, else None; opens no shard."""
    upgrade = partial(_upgrade, source, out)
    manifest = records.read_manifest(
        out, DATASET, version=VERSION, upgrade=upgrade, replace=replace, keys=("shards",)
    )
    if manifest is None:
        return None
    records.check_settings(out, manifest["settings"], source.settings())
    return manifest if _has_all_shards(source, out, manifest) else None


def _upgrade(source: Source, out: Path, content: dict[str, Any]) -> dict[str, Any] | None:
    """Read a manifest of version 1, which had fingerprints in place of the settings."""
    if "dataset" in content or content.get("format") != 1:
        return None
    shards = content.get("shards", {})
    check_shards_match(source, out, shards)
    header = {"dataset": DATASET, "format": VERSION, "settings": source.settings()}
    return header | {"shards": shards, "repeated_articles": content.get("repeated_articles")}


def _has_all_shards(source: Source, out: Path, manifest: Mapping[str, Any]) -> bool:
    shards = manifest["shards"]
    return all(
        # Own files are numbered in the order of their names, so a new one moves the numbers.
        name in shards and shards[name]["file"] == path.name and shard_path(out, name).is_file()
        for name, path in source.files().items()
    )


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


def shard_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"


def build(
    source: Source,
    out: Path,
    *,
    redo: Collection[str] = (),
    processes: int = 0,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Make the missing shards, check all of them, and write the manifest.

    Args:
        source: Text and settings.
        out: Prepared directory.
        redo: Names of shards to make again.
        processes: Worker processes; 0 chooses by cores and memory.
        show_progress: Draw a progress bar.

    Returns:
        The manifest.

    Raises:
        ValueError: One line per problem; finished shards are kept.
    """
    check_evaluation(source)
    check_vocabulary(source)
    with preparing(
        out,
        DATASET,
        source.settings(),
        version=VERSION,
        root=source.evaluation.parent,
        redo=redo,
        upgrade=partial(_upgrade, source, out),
        show_progress=show_progress,
    ) as preparation:
        manifest = preparation.manifest
        if manifest is not None and read_manifest(source, out) is not None:
            return manifest
        units = [_unit(name, path) for name, path in source.files().items()]
        if preparation.is_new:
            _adopt_shards(preparation, source, units)
        shards = preparation.run(
            "tokenising",
            partial(build_shard, source=source, out=out),
            units,
            processes=processes,
            worker_bytes=WORKER_BYTES,
            serial_bytes=SERIAL_BYTES,
        )
        with stage("comparing articles"):
            repeated = check_repetition(out, shards)
            check_leak(source, out, shards)
        return preparation.finish({"shards": shards, "repeated_articles": repeated})


def missing_room(source: Source, out: Path) -> list[str]:
    """Return a line if there is too little free space for the shards."""
    units = [_unit(name, path) for name, path in source.files().items() if path.is_file()]
    return missing_space(out, sum(unit.num_bytes for unit in units))


def _unit(name: str, path: Path) -> Unit:
    size = BYTES_PER_TEXT_BYTE * path.stat().st_size
    own_name = "" if path.name.startswith(("part-", "eval.")) else path.name
    return Unit(name, name, (f"{name}.safetensors",), own_name, size)


def _adopt_shards(preparation: Preparation, source: Source, units: Sequence[Unit]) -> None:
    """Record shards that version 1 made of the same text; it kept no records of them."""
    for unit in preparation.unfinished(units):
        path, text = shard_path(preparation.folder, unit.name), source.files()[unit.name]
        if path.is_file():
            facts = read_facts(path)
            check_shards_match(source, preparation.folder, {unit.name: facts})
            if facts["md5"] == hashlib.md5(text.read_bytes()).hexdigest():
                preparation.remember(unit, Done(facts, [raw_file(text)]))


def build_shard(name: str, source: Source, out: Path) -> Done:
    """Make one shard; ValueError for other text or without an article."""
    path = source.files()[name]
    text, md5 = read_text(path)
    if name != EVALUATION and md5 != source.checksums.get(path.name, md5):
        raise ValueError(
            f"{path}: MD5 {md5}, but the published file has {source.checksums[path.name]}; fetch "
            "it again, or accept other text with --data.published_text false (open division)"
        )
    vocabulary = Vocabulary.read(source.vocab_path, source.vocab_size)
    pieces = WordPieces(vocabulary)
    articles = tokenise(text, pieces)
    if articles.article_starts.size < 2:
        raise ValueError(f"{path} contains no article")
    check_unknown_words(articles.tokens, pieces, vocabulary["[UNK]"], path, source.vocab_path)
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
        "fingerprint": source.fingerprint(),
    }
    write_shard(shard_path(out, name), samples, article_hashes(text), facts)
    return Done(facts, [raw_file(path)])


def check_unknown_words(
    tokens: np.ndarray, pieces: WordPieces, unknown_id: int, path: Path, vocab_path: Path
) -> None:
    """Raise if more than 5 % of a text's word pieces are ``[UNK]``; names five of the words."""
    share = float((tokens == unknown_id).mean())
    if share > UNKNOWN_SHARE_LIMIT:
        words = ", ".join(pieces.unknown_words(unknown_id, UNKNOWN_NAMED))
        raise ValueError(
            f"{path}: {share:.1%} of the word pieces are [UNK] ({words}, ...), more than "
            f"{UNKNOWN_SHARE_LIMIT:.0%}: {vocab_path} does not fit the text; make a WordPiece "
            "vocabulary of lower-case words for it"
        )


def pick_evaluation(samples: Samples, count: int, path: Path) -> Samples:
    """Pick the evaluation samples: number ``int(i * ratio)`` for each i.

    Source: mlcommons/training @ 9947bdf2, language_model/tensorflow/bert/cleanup_scripts/
    pick_eval_samples.py.
    """
    total = samples.first_lengths.size
    if total < count:
        raise ValueError(
            f"{path} yields {total} samples but {count} are needed; give more held-out text or "
            f"--data.num_eval_samples {total} (open division)"
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


def check_leak(source: Source, out: Path, shards: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise if held-out articles are in the training text, unless both are the published ones."""
    published = reference_checksums(source.evaluation.parent)
    if all(facts["md5"] == published.get(facts["file"]) for facts in shards.values()):
        return  # a few stubs may be equal; the benchmark fixes them
    articles = {name: open_shard(shard_path(out, name))["articles"] for name in shards}
    held_out = np.unique(articles.pop(EVALUATION))
    for name, hashes in articles.items():
        shared = np.isin(hashes, held_out)
        if not shared.any():
            continue
        path = source.files()[name]
        texts = [article for article in split_articles(read_text(path)[0]) if article.strip()]
        first = texts[int(shared.argmax())].strip().splitlines()[0]
        raise ValueError(
            f"{path}: {int(shared.sum())} articles are also in {source.evaluation.name}, such as "
            f"the one that begins {first[:60]!r}: the evaluation would measure what was trained "
            "on; remove them from one of the two"
        )


def article_hashes(text: str) -> np.ndarray:
    """Return a 64-bit hash of each non-empty article, whatever its spaces and capitals.

    The result is (articles,) uint64.
    """
    plain = (" ".join(article.lower().split()) for article in split_articles(text))
    articles = [article.encode() for article in plain if article]
    digests = b"".join(hashlib.md5(article).digest()[:8] for article in articles)
    return np.frombuffer(digests, dtype=np.uint64)


def _gather(values: np.ndarray, starts: np.ndarray, rows: np.ndarray) -> tuple[Any, Any]:
    """Select rows of a ragged array; returns them and their new starts."""
    parts = [values[starts[row] : starts[row + 1]] for row in rows]
    return np.concatenate(parts), np.concatenate([[0], np.cumsum([part.size for part in parts])])
