"""The SentencePiece vocabulary: train it on the transcripts, load it, use it."""

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

UNKNOWN = 0


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> bytes:
    """Train a unigram vocabulary of ``vocab_size`` pieces, the unknown one (id 0) included.

    Returns the model file's bytes. Raises a ValueError if the texts cannot give that many pieces.

    Source:
        mlcommons/training @ 9947bdf2, rnn_speech_recognition/pytorch
        scripts/create_sentencepieces.sh.
    """
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            character_coverage=1.0,
            bos_id=-1,
            eos_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(
            f"data.vocab_size {vocab_size} does not fit the text: {_reason(str(error))}"
        ) from error
    return model.getvalue()


def _reason(message: str) -> str:
    """Shorten SentencePiece's message, which starts with a position in its own source."""
    if match := re.search(r"value <= (\d+)", message):
        return f"it gives at most {match[1]} pieces"
    if match := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return f"its characters need at least {match[1]} pieces"
    return message.splitlines()[-1].rpartition("] ")[2].strip()


class Tokenizer:
    """Text to label ids and back, with a SentencePiece model of ``vocab_size`` pieces."""

    def __init__(self, path: Path, vocab_size: int) -> None:
        import sentencepiece

        if not path.is_file():
            raise FileNotFoundError(f"SentencePiece model {path} is not a file")
        self._model: Any = sentencepiece.SentencePieceProcessor()
        try:
            self._model.LoadFromSerializedProto(path.read_bytes())
            size = self._model.vocab_size()
        except RuntimeError as error:
            raise ValueError(f"{path} is not a SentencePiece model") from error
        if size != vocab_size:
            raise ValueError(
                f"SentencePiece model {path} has {size} pieces, data.vocab_size is {vocab_size}; "
                "give a model of that size, or leave data.tokenizer_model out to train one"
            )

    def encode(self, text: str) -> list[int]:
        """Return the label ids of lower-case words; 0 where a character is unknown."""
        return self._model.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the words of label ids, separated by single spaces."""
        return self._model.decode(list(ids))
