"""The reference's BERT word pieces, with the WordPiece model of the `tokenizers` library.

Cleaning, lower case, accents and punctuation follow the reference to the character with Python's
own Unicode tables: the library's normaliser differs from it in final sigmas, in private and
unassigned characters and in its version of Unicode. The library then splits each *distinct* word
once; a repeated word is a dictionary look-up.
"""

import itertools
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

# Letters that are words of their own.
CJK_RANGES = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
MAX_WORD_CHARACTERS = 200
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def read_vocabulary(path: Path) -> bytes:
    """Return the bytes of ``vocab.txt``; an error says where to get it."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; see 'Data' in docs/bert.md for where to get it"
        )
    return path.read_bytes()


class Vocabulary:
    """Word pieces by id, as ``vocab.txt`` lists them, one per line from id 0."""

    def __init__(self, words: list[str], source: str = "vocabulary") -> None:
        self.words = words
        self.ids = {word: index for index, word in enumerate(words)}
        if missing := [token for token in SPECIAL_TOKENS if token not in self.ids]:
            raise ValueError(f"{source}: missing token {', '.join(missing)}")
        if len(self.ids) < len(words):
            twin = next(i for i, word in enumerate(words) if self.ids[word] != i)
            raise ValueError(
                f"{source}: lines {twin + 1} and {self.ids[words[twin]] + 1} are both "
                f"{words[twin]!r}; a word piece has one id"
            )
        if len(words) > 2**16:
            raise ValueError(f"{source}: {len(words)} lines; more than 65536 are not supported")

    @classmethod
    def read(cls, path: Path, expected_size: int | None) -> "Vocabulary":
        """Read ``vocab.txt``; ValueError if it has the wrong size or lacks a special token."""
        try:
            text = read_vocabulary(path).decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 at byte {error.start}") from error
        words = [line.strip() for line in text.removesuffix("\n").split("\n")]
        if expected_size not in (None, len(words)):
            raise ValueError(
                f"{path}: {len(words)} lines, but data.vocab_size is {expected_size}; "
                "use the vocabulary that belongs to the starting checkpoint"
            )
        return cls(words, str(path))

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, token: str) -> int:
        return self.ids[token]


class WordPieces:
    """Turns text into word-piece ids, line by line."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        from tokenizers import Tokenizer
        from tokenizers.models import WordPiece

        # No pre-tokeniser: every input string is one word.
        self._model = Tokenizer(
            WordPiece(
                vocabulary.ids, unk_token="[UNK]", max_input_chars_per_word=MAX_WORD_CHARACTERS
            )
        )
        self._cache: dict[str, list[int]] = {}

    def lines(self, text: str) -> Iterator[list[int]]:
        """Yield the ids of each line (only a line feed ends one); empty without words."""
        cache = self._cache
        for line in normalise(text).split("\n"):
            ids: list[int] = []
            for word in line.split():
                pieces = cache.get(word)
                if pieces is None:
                    pieces = cache[word] = self._model.encode(word).ids
                ids += pieces
            yield ids

    def unknown_words(self, unknown_id: int, most: int) -> list[str]:
        """Return words seen so far that the vocabulary lacks, in the order of the text."""
        lacking = (word for word, ids in self._cache.items() if unknown_id in ids)
        return list(itertools.islice(lacking, most))


def normalise(text: str) -> str:
    """Clean text, lower-case it, strip accents and put spaces around punctuation.

    Source: mlcommons/training @ 9947bdf2, language_model/tensorflow/bert/tokenization.py. Differs:
    works on a whole text at once, which none of the steps can notice. Line feeds stay.
    """
    if text.isascii():
        return text.translate(_CLEAN_ASCII).lower().translate(_SPLIT)
    cleaned = text.translate(_CLEAN).lower()
    return unicodedata.normalize("NFD", cleaned).translate(_SPLIT)


class _Table(dict[int, str | None]):
    """A translation table that applies a rule once per character; None drops the character."""

    def __init__(self, rule: Callable[[str], str | None]) -> None:
        super().__init__()
        self._rule = rule

    def __missing__(self, code: int) -> str | None:
        value = self[code] = self._rule(chr(code))
        return value


def _clean(character: str) -> str | None:
    code, category = ord(character), unicodedata.category(character)
    if character == "\n":
        return character
    if character in "\t\r" or category == "Zs":
        return " "
    if code in (0, 0xFFFD) or category in ("Cc", "Cf"):
        return None
    if any(first <= code <= last for first, last in CJK_RANGES):
        return f" {character} "
    return character


def _split(character: str) -> str | None:
    if unicodedata.category(character) == "Mn":
        return None
    return f" {character} " if is_punctuation(character) else character


def is_punctuation(character: str) -> bool:
    """Return whether a character is a word of its own: ASCII signs and Unicode punctuation."""
    code = ord(character)
    ascii_sign = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return ascii_sign or unicodedata.category(character).startswith("P")


_CLEAN, _SPLIT = _Table(_clean), _Table(_split)
# A complete table of single characters enables Python's fast path.
_CLEAN_ASCII = {code: _CLEAN[code] for code in range(128)}
