"""The cleaned Wikipedia text: its files, their checks, and their articles.

Layout: ``part-00000-of-00500`` ..., ``eval.txt`` and ``eval.md5``; UTF-8, one sentence per line,
an empty line between articles. Own text may have any names that end in ``.txt``.
"""

import hashlib
import random
import re
from pathlib import Path

import numpy as np

from datamodules.common.reading import entries
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
# Not text to train on, though it ends in .txt; a readme or a licence is none either.
_OTHERS = {"eval.txt", "vocab.txt", "bert_reference_results_text_md5.txt"}
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")


def text_folder(root: Path) -> Path:
    """Return the directory with the text: ``root``, or ``results4`` in it."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a directory; --data.root needs {WHERE}")
    folders = (root, root / "results4")
    return next((f for f in folders if (f / "eval.txt").is_file() or _parts(f)), root)


def find_parts(folder: Path, count: int, *, published: bool = False) -> dict[int, Path]:
    """Return the training parts that a run uses, by number; the same draw for all runs.

    A larger count only adds parts; it is capped at the number of parts. ``published`` requires the
    published number of parts. FileNotFoundError or ValueError if a part is missing or does not fit.
    """
    parts = _parts(folder)
    if not parts:
        raise FileNotFoundError(
            f"{folder}: no file part-00000-of-00500 and no *.txt of your own; get {WHERE}"
        )
    if packed := _still_packed(folder):
        raise ValueError(
            f"{folder}: {len(packed)} files are still packed next to the text ({packed[0]}): "
            "unpack them, or remove them"
        )
    totals = {total for _, total in parts}
    if len(totals) > 1:
        raise ValueError(
            f"{folder}: parts of different sets, of {sorted(totals)} files; keep one set"
        )
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


def num_parts_in(folder: Path) -> int:
    """Return the number of files of the text's set; part files name it, so some may be missing."""
    parts = _parts(folder)
    return max((total for _, total in parts), default=0)


def read_text(path: Path) -> tuple[str, str]:
    """Read a text file; returns its text and the MD5 of its bytes. Errors name the line."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; get {WHERE}")
    content = path.read_bytes()
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}: line {line} is not UTF-8; fetch the file again") from error
    if (hole := content.find(b"\0")) >= 0:  # of a download that left one
        line = content.count(b"\n", 0, hole) + 1
        raise ValueError(f"{path}: line {line} has NUL bytes; fetch the file again")
    _check_line_lengths(path, text)
    return text, hashlib.md5(content).hexdigest()


def split_articles(text: str) -> list[str]:
    """Return the articles of a text, possibly empty ones, without newlines at their ends."""
    return [article.strip("\n") for article in text.removesuffix("\n").split("\n\n")]


def tokenise(text: str, pieces: WordPieces) -> Articles:
    """Tokenise all articles, leaving out empty articles and lines without a word."""
    # The reference reads lines through TensorFlow, which drops carriage returns.
    text = text.replace("\r", "")
    tokens: list[np.ndarray] = []
    sentences, articles, at_start = [0], [0], False
    for raw, ids in zip(text.split("\n"), pieces.lines(text), strict=True):
        if not raw.strip():
            at_start = True
        elif ids:
            if at_start and articles[-1] < len(sentences) - 1:
                articles.append(len(sentences) - 1)
            at_start = False
            tokens.append(np.array(ids, dtype=np.int32))
            sentences.append(sentences[-1] + len(ids))
    if articles[-1] < len(sentences) - 1:
        articles.append(len(sentences) - 1)
    token_ids = np.concatenate(tokens) if tokens else np.empty(0, dtype=np.int32)
    return Articles(token_ids, np.array(sentences), np.array(articles))


def _parts(folder: Path) -> dict[tuple[int, int], Path]:
    """Return the parts by number and the total in their names."""
    parts = {}
    for path in entries(folder):
        if match := _PART.fullmatch(path.name):
            parts[int(match[1]), int(match[2])] = path
    return parts or _own_files(folder)


def _own_files(folder: Path) -> dict[tuple[int, int], Path]:
    """Number text files of other names, in the order of these."""
    paths = [
        path
        for path in sorted(folder.glob("*.txt"))
        if path.is_file()
        and path.name not in _OTHERS
        and not path.name.lower().startswith((".", "readme", "license", "licence"))
    ]
    return {(number, len(paths)): path for number, path in enumerate(paths)}


def _still_packed(folder: Path) -> list[str]:
    """Name archives of single text files whose text is not there."""
    names = (path.name for path in sorted(folder.iterdir()) if path.suffix in _PACKED)
    stems = {name: name.rpartition(".")[0] for name in names}
    return [
        name
        for name, stem in stems.items()
        if (_PART.fullmatch(stem) or stem.endswith(".txt")) and not (folder / stem).is_file()
    ]


def _check_line_lengths(path: Path, text: str) -> None:
    """Raise for a line too long to be a sentence."""
    start = 0
    while len(text) - start > MAX_LINE_CHARACTERS:
        # The last line feed within the limit ends lines that are short enough.
        end = text.rfind("\n", start, start + MAX_LINE_CHARACTERS + 1)
        if end < 0:
            line = text.count("\n", 0, start) + 1
            raise ValueError(
                f"{path}: line {line} has more than {MAX_LINE_CHARACTERS:,} characters; "
                "expected one sentence per line"
            )
        start = end + 1
