"""Check of the token files: their indexes, their bytes, their ids, and the tokenizer next to them.

Nothing is written but a manifest with what was found; training then reads no more than it needs.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules.c4.indexed import (
    AGAIN,
    Index,
    Pair,
    map_bounds,
    map_lengths,
    map_offsets,
    map_tokens,
    read_header,
)
from datamodules.c4.leak import leak_line
from datamodules.c4.published import FIRST_ID, LAST_ID, count_lines, find_pair
from datamodules.c4.tokenise import fingerprint, one_thread, read_tokenizer
from datamodules.common import records
from datamodules.common.preparation import Done, Unit, preparing, units_to_redo
from datamodules.common.progress import stage
from datamodules.common.reading import reading
from datamodules.common.records import file_hash

DATASET, VERSION = "c4", 1
BLOCK = 2**26  # bytes read at a time
SAMPLED = 10_000  # documents whose first and last ids are looked at
COMPARED = 20  # documents that are turned into text and back
LEAST_EQUAL = 0.5  # of these


class Job(NamedTuple):
    """A split to check."""

    pair: Pair
    vocab_size: int
    tokenizer: Path
    md5s: dict[str, str]
    names: tuple[str, str]
    """Of the two files, from the prepared folder."""


def read_manifest(folder: Path, vocab_size: int, *, replace: bool = False) -> dict[str, Any] | None:
    """Return the manifest of checked files, else None; opens nothing else."""
    manifest = records.read_manifest(
        folder, DATASET, version=VERSION, replace=replace, keys=("splits",)
    )
    if manifest is not None:
        records.check_settings(folder, manifest["settings"], {"vocab_size": vocab_size})
    return manifest


def check_files(
    root: Path, out: Path, vocab_size: int, *, redo: bool = False, show_progress: bool = False
) -> dict[str, Any]:
    """Check both splits' files and write the manifest; what is as it was checked is not read again.

    Args:
        root: Folder of the token files.
        out: Prepared folder.
        vocab_size: Ids must be below.
        redo: Read all bytes again, for files that have changed since.
        show_progress: Draw a progress bar.

    Returns:
        The manifest.

    Raises:
        FileNotFoundError: If a file is missing; one line.
        ValueError: If one is damaged or does not belong to the others; one line each.
    """
    units = _units(root, out, vocab_size)  # before any directory is made
    again = units_to_redo(out, root) if redo else set()
    with preparing(
        out,
        DATASET,
        {"vocab_size": vocab_size},
        version=VERSION,
        root=root,
        redo=again,
        show_progress=show_progress,
    ) as preparation:
        if preparation.manifest is not None and not preparation.unfinished(units):
            return preparation.manifest
        # In this process: one file is nearly all there is to read, and its progress shows here.
        splits = preparation.run("checking the token files", check_pair, units, processes=1)
        if any(count_lines(name, s["documents"], s["tokens"]) for name, s in splits.items()):
            # Of the published text some documents may be equal: the benchmark fixes them.
            with stage("comparing documents"):
                if line := leak_line(*(find_pair(root, split) for split in splits)):
                    raise ValueError(line)
        return preparation.finish({"splits": splits})


def _units(root: Path, out: Path, vocab_size: int) -> list[Unit]:
    tokenizer, md5s = root / "tokenizer.json", read_md5s(root)
    units = []
    for split in ("train", "validation"):
        pair = find_pair(root, split)
        # They lie next to the prepared folder: it may move with them.
        names = (os.path.relpath(pair.bin, out), os.path.relpath(pair.idx, out))
        wanted = " ".join(md5s.get(path.name, "") for path in pair)
        stamp = f"{fingerprint(tokenizer)} {wanted}"
        job = Job(pair, vocab_size, tokenizer, md5s, names)
        units.append(Unit(split, job, names, stamp))
    return units


def check_pair(job: Job) -> Done:
    """Check one split; returns its counts, and the share of documents with marks at their ends."""
    index = check_index(job.pair)
    lengths = map_lengths(job.pair.idx, index.documents)
    bin_hash = _check_tokens(job, index)
    if job.tokenizer.is_file():
        check_tokenizer(job, index)
    first, last = _marked(job.pair, index, lengths)
    _check_md5(job.pair.idx, job.md5s)
    idx_hash = file_hash(job.pair.idx)
    facts = {
        "file": job.pair.bin.name,
        "dtype": index.dtype,
        "documents": index.documents,
        "tokens": int(lengths.sum(dtype=np.int64)),
        "sizes": {path.name: path.stat().st_size for path in job.pair},
        "index_hash": idx_hash,
        "starts_marked": first,
        "ends_marked": last,
    }
    return Done(facts, sha256=dict(zip(job.names, (bin_hash, idx_hash), strict=True)))


def check_index(pair: Pair) -> Index:
    """Compare all numbers of an ``.idx`` with each other and with the size of the ``.bin``."""
    index = read_header(pair.idx)
    lengths = map_lengths(pair.idx, index.documents)
    if not index.documents:
        raise ValueError(f"{pair.idx}: has no document; {AGAIN}")
    if lengths.min() < 0:
        bad = int(np.argmax(lengths < 0))
        raise ValueError(f"{pair.idx}: document {bad:,} has {lengths[bad]:,} tokens; {AGAIN}")
    ends = np.cumsum(lengths, dtype=np.int64)
    _check_offsets(pair, index, ends - lengths)
    if not np.array_equal(map_bounds(pair.idx, index.documents), np.arange(index.documents + 1)):
        raise ValueError(f"{pair.idx}: its bounds of documents are not 0, 1, 2, ...; {AGAIN}")
    if not ends[-1]:
        raise ValueError(f"{pair.idx}: none of its documents has a token; {AGAIN}")
    _check_size(pair, index, int(ends[-1]))
    return index


def _check_offsets(pair: Pair, index: Index, starts: np.ndarray) -> None:
    offsets, item = map_offsets(pair.idx, index.documents), np.dtype(index.dtype).itemsize
    wrong = offsets != starts * item
    if not wrong.any():
        return
    others = (other for other in (1, 2, 4, 8) if np.array_equal(offsets, starts * other))
    if other := next(others, 0):
        what = f"its type is {index.dtype}, but it counts {other} bytes a token"
    else:
        what = f"document {int(np.argmax(wrong)):,} does not begin where the one before ends"
    raise ValueError(f"{pair.idx}: {what}; {AGAIN}")


def _check_size(pair: Pair, index: Index, tokens: int) -> None:
    size, item = pair.bin.stat().st_size, np.dtype(index.dtype).itemsize
    if size == tokens * item:
        return
    other = size // tokens if tokens and size % tokens == 0 else 0
    hint = f" (it would be of {other} bytes a token)" if other in (1, 2, 4, 8) else ""
    raise ValueError(
        f"{pair.bin} has {size:,} bytes, but {pair.idx.name} lists {tokens:,} tokens of type "
        f"{index.dtype}, {tokens * item:,} bytes{hint}; {AGAIN}"
    )


def _check_tokens(job: Job, index: Index) -> str:
    """Read all tokens once: ids within the vocabulary, and the hashes; returns the SHA-256."""
    path, wanted = job.pair.bin, job.md5s.get(job.pair.bin.name)
    sha, md5 = hashlib.sha256(), hashlib.md5()
    done, item = 0, np.dtype(index.dtype).itemsize
    with stage(f"checking {path.name} (GB)", round(path.stat().st_size / 1e9)) as now:
        for block in _blocks(path):
            ids = np.frombuffer(block, index.dtype)
            if ids.min() < 0 or ids.max() >= job.vocab_size:
                raise ValueError(_bad_id(job, index, ids, done // item))
            sha.update(block)
            if wanted:
                md5.update(block)
            done += len(block)
            now.done = int(done / 1e9)
    if wanted and md5.hexdigest() != wanted:
        raise ValueError(_other_md5(path, md5.hexdigest(), wanted))
    return sha.hexdigest()


def _blocks(path: Path) -> Iterator[bytes]:
    with reading(path), path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block


def _bad_id(job: Job, index: Index, ids: np.ndarray, before: int) -> str:
    place = int(np.argmax((ids < 0) | (ids >= job.vocab_size)))
    offsets = map_offsets(job.pair.idx, index.documents)
    start = (before + place) * ids.itemsize
    document = int(np.searchsorted(offsets, start, side="right")) - 1
    return (
        f"{job.pair.bin}: document {document:,} has the id {ids[place]:,}, but data.vocab_size is "
        f"{job.vocab_size:,}: the files are of another tokenizer or damaged; {AGAIN}, or give "
        "their vocabulary with --data.vocab_size"
    )


def read_md5s(root: Path) -> dict[str, str]:
    """Return the MD5 of each file that a list (``*.md5``) in a folder names."""
    sums = {}
    for path in sorted(root.glob("*.md5")):
        with reading(path):
            for line in path.read_text(errors="replace").splitlines():
                digest, _, name = line.strip().partition(" ")
                if len(digest) == 32:
                    sums[Path(name.strip().lstrip("*")).name] = digest.lower()
    return sums


def _check_md5(path: Path, md5s: dict[str, str]) -> None:
    if path.name in md5s:
        with reading(path), path.open("rb") as file:
            digest = hashlib.file_digest(file, "md5").hexdigest()
        if digest != md5s[path.name]:
            raise ValueError(_other_md5(path, digest, md5s[path.name]))


def _other_md5(path: Path, digest: str, wanted: str) -> str:
    return f"{path}: MD5 {digest}, but the list next to it has {wanted}; fetch it again"


def check_tokenizer(job: Job, index: Index) -> None:
    """Raise if documents that are turned into text and back are no longer the same tokens."""
    tokenizer = read_tokenizer(job.tokenizer, job.vocab_size)
    if tokenizer.decoder is None:
        return  # its text need not become the same tokens
    tokens, lengths = map_tokens(job.pair.bin, index.dtype), map_lengths(job.pair.idx, index[1])
    ends = np.cumsum(lengths[:COMPARED], dtype=np.int64)
    ids = [part.tolist() for part in np.split(tokens[: ends[-1]], ends[:-1])]
    with one_thread():
        texts = tokenizer.decode_batch(ids, skip_special_tokens=False)
        again = tokenizer.encode_batch(texts, add_special_tokens=False)
    equal = sum(before == after.ids for before, after in zip(ids, again, strict=True))
    if equal < LEAST_EQUAL * len(ids):
        raise ValueError(
            f"{job.tokenizer} is not the tokenizer of {job.pair.bin.name}: of its first {len(ids)} "
            f"documents {len(ids) - equal} turned into text and back are other tokens; put the "
            "right one there, or none (training needs none)"
        )


def _marked(pair: Pair, index: Index, lengths: np.ndarray) -> tuple[float, float]:
    """Return which shares of the first documents start and end with Llama 3's marks."""
    tokens = map_tokens(pair.bin, index.dtype)
    some = lengths[:SAMPLED]
    ends = np.cumsum(some, dtype=np.int64)
    first, last = tokens[(ends - some)[some > 0]], tokens[ends[some > 0] - 1]
    return float((first == FIRST_ID).mean()), float((last == LAST_ID).mean())
