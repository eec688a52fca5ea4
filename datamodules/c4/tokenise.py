"""Text to tokens: C4's packed lines of JSON through the ``tokenizers`` library.

Documents follow each other without any mark of begin or end, as in the published files.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from gzip import BadGzipFile, GzipFile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules.common.atomic import atomic_file
from datamodules.common.preparation import Done
from datamodules.common.reading import reading
from datamodules.common.records import file_hash, raw_file

BATCH = 1000  # documents
LONGEST_LINE = 2**26  # bytes: a hundred times C4's longest
AGAIN = "fetch it again"


class Shard(NamedTuple):
    """Text files that become one part of a split.

    Attributes:
        name: Stem of the part's files: ``.bin`` with tokens, ``.npy`` with lengths.
        paths: The text files, in order.
        most: Documents to take; None takes all.
        tokenizer: A ``tokenizer.json``.
        vocab_size: Ids must be below.
        dtype: Of the tokens.
        folder: Where the part is written.
    """

    name: str
    paths: tuple[Path, ...]
    most: int | None
    tokenizer: Path
    vocab_size: int
    dtype: str
    folder: Path


def tokenise(shard: Shard) -> Done:
    """Write a shard's part; counts its documents, its tokens, and the documents without any."""
    tokenizer = read_tokenizer(shard.tokenizer, shard.vocab_size)
    lengths: list[int] = []
    seen, tokens, digest = 0, 0, hashlib.sha256()
    with atomic_file(shard.folder / f"{shard.name}.bin") as out, one_thread():
        for texts in _batches(_texts(shard), BATCH):
            found = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            ids = [each.ids for each in found]
            part = np.array([i for document in ids for i in document], shard.dtype)
            lengths += [len(document) for document in ids if document]
            seen, tokens = seen + len(texts), tokens + part.size
            out.write(part.data)
            digest.update(part.data)
    with atomic_file(shard.folder / f"{shard.name}.npy") as out:
        np.save(out, np.array(lengths, np.int32))
    if not lengths:
        raise ValueError(f"{shard.paths[0]}: has no document with text; {AGAIN}")
    facts = {
        "file": shard.paths[0].name,
        "hash": digest.hexdigest(),
        "documents": len(lengths),
        "tokens": tokens,
        "empty": seen - len(lengths),
    }
    return Done(facts, [raw_file(path) for path in shard.paths])


def read_tokenizer(path: Path, vocab_size: int) -> Any:
    """Read a ``tokenizer.json`` of the library ``tokenizers``.

    Args:
        path: The file.
        vocab_size: Most tokens that it may have.

    Returns:
        The tokenizer.

    Raises:
        FileNotFoundError: If it is missing; one line.
        ValueError: If it is damaged or has more tokens; one line.
    """
    from tokenizers import Tokenizer

    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: text needs the tokenizer (Llama 3.1's, from MLCommons' bundle "
            "llama-3-1-8b-tokenizer or Hugging Face; Llama 3.1 Community licence)"
        )
    with reading(path):
        content = path.read_bytes()
    try:
        tokenizer = Tokenizer.from_buffer(content)
        tokenizer.no_truncation()  # a file may ask for both
        tokenizer.no_padding()
    except Exception as error:  # the library has no class for it
        raise ValueError(f"{path}: is not a file of the library tokenizers ({error})") from error
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if highest >= vocab_size:
        raise ValueError(
            f"{path}: its ids go up to {highest:,}, but data.vocab_size is {vocab_size:,}; give "
            "the tokenizer that the data is for, or its size with --data.vocab_size"
        )
    return tokenizer


def fingerprint(path: Path) -> str:
    """Return a tokenizer's hash, or an empty text if it is missing."""
    return file_hash(path) if path.is_file() else ""


@contextmanager
def one_thread() -> Iterator[None]:
    """Let the library work in this thread: other processes do other shards, and a fork is safe."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def _batches(texts: Iterator[str], size: int) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _texts(shard: Shard) -> Iterator[str]:
    """Yield the texts of a shard's documents."""
    left = shard.most
    for path in shard.paths:
        for number, line in enumerate(_lines(path), 1):
            if left == 0:
                return
            yield _text(line, path, number)
            left = None if left is None else left - 1


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a packed file; at its end its checksum has been verified."""
    number = 0
    with reading(path), path.open("rb") as packed, GzipFile(fileobj=packed) as file:
        try:
            while line := file.readline(LONGEST_LINE):
                number += 1
                if len(line) == LONGEST_LINE:
                    raise ValueError(f"{path}: line {number:,} is longer than 64 MiB; {AGAIN}")
                yield line
        except (BadGzipFile, EOFError, zlib.error) as error:
            reason = f"is damaged after line {number:,} ({error})"
            raise ValueError(f"{path}: {reason}; {AGAIN}") from error


def _text(line: bytes, path: Path, number: int) -> str:
    try:
        text = json.loads(line)["text"]
        if isinstance(text, str) and text.encode() is not None:
            return text
        reason = f"text is {type(text).__name__}"
    except (KeyError, TypeError, IndexError):
        reason = "no field text"
    except UnicodeError:
        reason = "not UTF-8"
    except (ValueError, RecursionError):
        reason = "not JSON"
    raise ValueError(f"{path}: line {number:,} is not a document ({reason}); {AGAIN}")


def lengths_of(paths: Sequence[Path]) -> np.ndarray:
    """Return the lengths of all documents of some parts: (N,) int32."""
    return np.concatenate([np.load(path) for path in paths])
