"""Utterances streamed from webdataset shards: ``flac`` (or ``wav``, ``ogg``) and ``txt``."""

import hashlib
import io
import json
import random
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.common.atomic import atomic_file
from datamodules.common.cache import cache_dir
from datamodules.common.stream.batches import chunks
from datamodules.common.stream.pattern import is_local, show
from datamodules.common.stream.samples import Raw
from datamodules.common.stream.share import PASSES
from datamodules.common.stream.splits import StreamedSplits
from datamodules.librispeech import synthetic
from datamodules.librispeech.audio import Batch, Sample, augmentation_seed, collate
from datamodules.librispeech.flac import MOST_SAMPLES, SAMPLE_RATE
from datamodules.librispeech.manifest import DATASET, TOKENIZER, Manifest
from datamodules.librispeech.text import UNKNOWN, Tokenizer

AUDIO, TEXT = ("flac", "wav", "ogg"), ("txt",)
FLOATS = ("FLOAT", "DOUBLE")


class UtteranceKind:
    """Batches of utterances; raises one line that names shard and key of a bad one.

    Args:
        tokenizer: SentencePiece model.
        vocab_size: Its pieces.
        batch_size: Utterances of a batch.
        seed: Of augmentation and dither.
        max_duration: Longest training utterance in seconds, longer ones are left out; None for an
            evaluation, which takes all.
        num_buckets: Batches of training utterances that are sorted by length together.
    """

    def __init__(
        self,
        tokenizer: Path,
        vocab_size: int,
        batch_size: int,
        seed: int,
        *,
        max_duration: float | None = None,
        num_buckets: int = 1,
    ) -> None:
        self._path, self._vocab_size = tokenizer, vocab_size
        self._batch_size, self._seed = batch_size, seed
        self._max_duration, self._num_buckets = max_duration, num_buckets
        self._tokenizer: Tokenizer | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tokenizer": None}  # a spawned worker loads it itself

    def group(
        self, samples: Iterator[Raw], batches: int, rng: random.Random
    ) -> Iterator[list[Raw]]:
        if self._max_duration is None:
            yield from chunks(samples, self._batch_size)
            return
        kept = self._short_enough(samples)
        for first in range(0, batches, self._num_buckets):
            number = min(self._num_buckets, batches - first)
            pool = sorted(islice(kept, number * self._batch_size), key=lambda pair: pair[0])
            utterances = [raw for _, raw in pool]
            pooled = list(chunks(iter(utterances), self._batch_size))
            rng.shuffle(pooled)
            yield from pooled

    def make(self, raw: Sequence[Raw], epoch: int) -> Batch:
        return collate([self._sample(utterance, epoch) for utterance in raw])

    def _short_enough(self, samples: Iterator[Raw]) -> Iterator[tuple[int, Raw]]:
        """Yield utterances with their lengths; raise if a whole pass has none."""
        assert self._max_duration is not None
        most, some = self._max_duration * SAMPLE_RATE, False
        for raw in samples:
            if raw.repeat >= PASSES and not some:
                raise ValueError(f"{raw.name}: no utterance is up to {self._max_duration} s long")
            if (length := _named(raw, _length)) <= most:
                some = True
                yield length, raw

    def _sample(self, raw: Raw, epoch: int) -> Sample:
        key = None if self._max_duration is None else (epoch, raw.repeat)
        return Sample(
            torch.from_numpy(_named(raw, _audio)),
            torch.tensor(_named(raw, self._labels), dtype=torch.int64),
            augmentation_seed(self._seed, raw.number, key),
            raw.number,
        )

    def _labels(self, raw: Raw) -> list[int]:
        if self._tokenizer is None:
            self._tokenizer = Tokenizer(self._path, self._vocab_size)
        text = _text(raw)
        labels = self._tokenizer.encode(text)
        if UNKNOWN in labels:
            encode = self._tokenizer.encode
            odd = sorted({letter for letter in text if UNKNOWN in encode(letter)})
            raise ValueError(f"txt has characters outside of the vocabulary ({' '.join(odd)})")
        return labels


def streamed_manifest(streamed: StreamedSplits, vocab_size: int, max_duration: float) -> Manifest:
    """Return the manifest of prepared shards, or one of durations like LibriSpeech's.

    The durations of other shards are known only once they are read; ``max_duration`` and warm-up
    batches need some.

    Args:
        streamed: The shards.
        vocab_size: Pieces of the vocabulary.
        max_duration: Longest training utterance in seconds.

    Returns:
        The manifest; its numbers of utterances are those of the shards.

    Raises:
        ValueError: If the shards were prepared with another number of pieces.
    """
    totals = {"train": streamed.train.total, "dev": streamed.evaluation.total}
    address, content = streamed.file_beside("manifest.json")
    try:
        known = json.loads(content or b"{}")
        ours = known.get("dataset") == DATASET
    except (ValueError, AttributeError):
        ours = False
    if ours and known["settings"]["vocab_size"] != vocab_size:
        raise ValueError(
            f"{show(address)}: prepared with {known['settings']['vocab_size']} pieces, "
            f"data.vocab_size is {vocab_size}"
        )
    if ours and totals == {name: len(n) for name, n in known["num_samples"].items()}:
        return Manifest(vocab_size, known["num_samples"], known["most_labels"])
    return synthetic.manifest(vocab_size, totals, max_duration)


def streamed_tokenizer(streamed: StreamedSplits, given: Path | None) -> Path:
    """Return the path of the vocabulary: the one given, or a copy of the shards' own.

    Args:
        streamed: The shards.
        given: Value of ``data.tokenizer_model``.

    Returns:
        A SentencePiece model on this machine.

    Raises:
        ValueError: If there is none.
    """
    if given is not None:
        return given
    address, content = streamed.file_beside(TOKENIZER)
    if content is None:
        raise ValueError(
            f"no {TOKENIZER} next to the shards: give a SentencePiece model with "
            "--data.tokenizer_model FILE"
        )
    if is_local(address):
        return Path(address)
    digest = hashlib.sha256(content).hexdigest()[:16]
    path = cache_dir() / "shards" / f"tokenizer-{digest}.model"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(content)
    return path


def _named(raw: Raw, read: Any) -> Any:
    try:
        return read(raw)
    except ValueError as error:
        raise ValueError(f"{raw.name}: {error}; replace it in the shard") from error


def _length(raw: Raw) -> int:
    """Return the audio samples that a recording's header states."""
    with _opened(raw) as sound:
        return sound.frames


def _audio(raw: Raw) -> np.ndarray:
    """Decode a recording to audio_N, int16; of 24 bits the upper 16 are kept."""
    import soundfile

    with _opened(raw) as sound:
        try:
            is_float = sound.subtype in FLOATS
            audio_N = sound.read(dtype="float32" if is_float else "int16")
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise ValueError("cannot be decoded") from error
        if len(audio_N) != sound.frames:
            raise ValueError(f"is truncated, {len(audio_N)} of {sound.frames} samples")
    if is_float:
        audio_N = np.rint(audio_N * 32768).clip(-32768, 32767).astype(np.int16)
    return audio_N


def _opened(raw: Raw) -> Any:
    """Open a recording, which must be mono at 16 kHz."""
    import soundfile

    try:
        sound = soundfile.SoundFile(io.BytesIO(raw.field(AUDIO)))
    except (soundfile.LibsndfileError, RuntimeError) as error:
        reason = str(error).rpartition(":")[2].strip().rstrip(".")
        raise ValueError(f"cannot be decoded ({reason})") from error
    if sound.samplerate != SAMPLE_RATE or sound.channels != 1:
        raise ValueError(
            f"{sound.samplerate} Hz, {sound.channels} channels; needed: {SAMPLE_RATE} Hz, 1"
        )
    if not 0 < sound.frames <= MOST_SAMPLES:
        raise ValueError(f"its header states {sound.frames} samples; 1 to {MOST_SAMPLES} are read")
    return sound


def _text(raw: Raw) -> str:
    """Return the transcript as LibriSpeech's are prepared."""
    try:
        text = raw.field(TEXT).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("txt is not UTF-8") from error
    text = " ".join(unicodedata.normalize("NFC", text.lower()).split())
    if not text:
        raise ValueError("txt is empty")
    return text
