"""The cleaned Wikipedia text: which files there are, what is wrong with them, and their articles.

Layout: ``part-00000-of-00500`` ..., ``eval.txt`` and ``eval.md5``; UTF-8, one sentence a line, an
empty line between articles.
"""

import hashlib
import random
import re
from pathlib import Path

import numpy as np

from datamodules.wikipedia.samples import Articles
from datamodules.wikipedia.tokens import WordPieces

MAX_LINE_CHARACTERS = 1_000_000
WHERE = (
    "the bundle 'bert-preprocessed-wikipedia-dataset' of the MLCommons downloader "
    "(results4/, about 13 GB, CC BY-SA; see docs/bert.md)"
)
PART_DRAW_SEED = 12345
PUBLISHED_PARTS = 500
_PART = re.compile(r"part-(\d{5})-of-(\d{5})")


def text_folder(root: Path) -> Path:
    """The folder with the text: the root itself or ``results4`` in it.

    Args:
        root: What the user gave.

    Returns:
        The folder that holds ``eval.txt`` or parts; the root where none does.

    Raises:
        FileNotFoundError: If the root is no folder.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; --data.root needs {WHERE}")
    folders = (root, root / "results4")
    return next((f for f in folders if (f / "eval.txt").is_file() or _parts(f)), root)


def find_parts(folder: Path, count: int, *, published: bool = False) -> dict[int, Path]:
    """The training parts that a run consumes, drawn once and for all runs alike.

    A greater count only adds parts.

    Args:
        folder: From ``text_folder``.
        count: How many parts; capped at as many as there are.
        published: Insist on as many as the published text has.

    Returns:
        Paths by part number, in rising order.

    Raises:
        FileNotFoundError: If there is no part, or one of those is missing; the message names it.
        ValueError: If the names disagree on how many parts there are, or say another number.
    """
    parts = _parts(folder)
    if not parts:
        raise FileNotFoundError(f"{folder}: no file part-00000-of-00500; get {WHERE}")
    totals = {total for _, total in parts}
    if len(totals) > 1:
        raise ValueError(f"{folder}: parts of different sets, of {sorted(totals)} files; keep one")
    total = totals.pop()
    if published and total != PUBLISHED_PARTS:
        raise ValueError(
            f"{folder}: parts of {total}, but the published text has {PUBLISHED_PARTS}; get "
            f"{WHERE}, or accept another text with --data.published_text false (open division)"
        )
    chosen = sorted(random.Random(PART_DRAW_SEED).sample(range(total), total)[:count])
    if missing := [f"part-{n:05d}-of-{total:05d}" for n in chosen if (n, total) not in parts]:
        raise FileNotFoundError(
            f"{folder}: {len(missing)} of the {len(chosen)} parts needed are missing "
            f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}); get {WHERE}"
        )
    return {number: parts[number, total] for number in chosen}


def read_text(path: Path) -> tuple[str, str]:
    """Read one text file whole.

    Args:
        path: The file.

    Returns:
        Its text and the MD5 of its bytes.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is not UTF-8 or has an over-long line; names the line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing; get {WHERE}")
    content = path.read_bytes()
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}: line {line} is not UTF-8; fetch the file again") from error
    _refuse_long_lines(path, text)
    return text, hashlib.md5(content).hexdigest()


def split_articles(text: str) -> list[str]:
    """Articles of a text.

    Args:
        text: Articles with two newlines between them.

    Returns:
        One text per article, possibly empty ones, without newlines at its ends.
    """
    return [article.strip("\n") for article in text.removesuffix("\n").split("\n\n")]


def tokenise(text: str, pieces: WordPieces) -> Articles:
    """Word pieces of all articles.

    Args:
        text: A text file's content.
        pieces: The tokeniser.

    Returns:
        Articles without the empty ones; lines without a word are left out.
    """
    # The reference reads lines through TensorFlow, which leaves carriage returns out.
    text = text.replace("\r", "")
    tokens: list[np.ndarray] = []
    sentences, articles, fresh = [0], [0], False
    for raw, ids in zip(text.split("\n"), pieces.lines(text), strict=True):
        if not raw.strip():
            fresh = True
        elif ids:
            if fresh and articles[-1] < len(sentences) - 1:
                articles.append(len(sentences) - 1)
            fresh = False
            tokens.append(np.array(ids, dtype=np.int32))
            sentences.append(sentences[-1] + len(ids))
    if articles[-1] < len(sentences) - 1:
        articles.append(len(sentences) - 1)
    joined = np.concatenate(tokens) if tokens else np.empty(0, dtype=np.int32)
    return Articles(joined, np.array(sentences), np.array(articles))


def _parts(folder: Path) -> dict[tuple[int, int], Path]:
    """Parts by number and the total that the name claims."""
    found = {}
    for path in folder.glob("part-*-of-*"):
        if match := _PART.fullmatch(path.name):
            found[int(match[1]), int(match[2])] = path
    return found


def _refuse_long_lines(path: Path, text: str) -> None:
    """Refuse a line that cannot be a sentence."""
    start = 0
    while len(text) - start > MAX_LINE_CHARACTERS:
        # Jump as far as a line may reach: the last newline within reach bounds all lines before.
        end = text.rfind("\n", start, start + MAX_LINE_CHARACTERS + 1)
        if end < 0:
            line = text.count("\n", 0, start) + 1
            raise ValueError(
                f"{path}: line {line} has more than {MAX_LINE_CHARACTERS:,} characters; "
                "one sentence a line is expected"
            )
        start = end + 1
