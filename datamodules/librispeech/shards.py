"""WebDataset shards of recordings: checked while they are written, read at random by offset.

A shard is a plain tar file with ``KEY.flac`` and ``KEY.txt`` per utterance, which the webdataset
library reads as a stream. Beside it stands a small JSON file with the place of every recording, so
that training can read any one of them: buckets and exact resume need random access.
"""

import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.librispeech.raw import Utterance, shorten

SAMPLE_RATE = 16_000
FORMAT = 1


@dataclass(frozen=True)
class ShardPlan:
    """What is to stand in one shard.

    Attributes:
        name: File name without ``.tar``.
        utterances: Its content, in order.
    """

    name: str
    utterances: tuple[Utterance, ...]


@dataclass(frozen=True)
class Place:
    """Where a recording stands in its shard.

    Attributes:
        key: The utterance.
        offset: First byte of the FLAC data.
        size: Its bytes.
        num_samples: Audio samples in it.
    """

    key: str
    offset: int
    size: int
    num_samples: int


def write_shard(plan: ShardPlan, folder: Path) -> tuple[str, list[Place]]:
    """Check the recordings of a shard and write it, unless that is done already.

    Args:
        plan: Name and utterances.
        folder: Where to write; the shard appears whole or not at all.

    Returns:
        The shard's name and its places.

    Raises:
        ValueError: One line per bad recording; no shard is written then.
        OSError: If the folder cannot be written.
    """
    if (done := read_places(folder, plan)) is not None:
        return plan.name, done
    problems, places = [], []
    partial = folder / f".{plan.name}.{os.getpid()}.partial"
    try:
        with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
            for utterance in plan.utterances:
                try:
                    content, num_samples = checked_recording(utterance.path)
                except ValueError as error:
                    problems.append(str(error))
                    continue
                offset = _add(tar, f"{utterance.key}.flac", content)
                _add(tar, f"{utterance.key}.txt", utterance.text.encode())
                places.append(Place(utterance.key, offset, len(content), num_samples))
        if problems:
            raise ValueError("\n".join(shorten(problems)))
        partial.replace(folder / f"{plan.name}.tar")
    finally:
        partial.unlink(missing_ok=True)
    note = {"format": FORMAT, "texts": _texts(plan), "places": [asdict(place) for place in places]}
    fresh = folder / f".{plan.name}.{os.getpid()}.json"
    fresh.write_text(json.dumps(note))
    fresh.replace(folder / f"{plan.name}.json")
    return plan.name, places


def read_places(folder: Path, plan: ShardPlan) -> list[Place] | None:
    """Places in a finished shard.

    Args:
        folder: Folder of the shards.
        plan: What must stand in it.

    Returns:
        The places, or None if the shard is missing or holds something else.
    """
    note, tar = folder / f"{plan.name}.json", folder / f"{plan.name}.tar"
    if not (note.is_file() and tar.is_file()):
        return None
    try:
        content = json.loads(note.read_text())
    except ValueError:  # damaged: write the shard again
        return None
    if content.get("format") != FORMAT or content.get("texts") != _texts(plan):
        return None
    return [Place(**place) for place in content["places"]]


def checked_recording(path: Path) -> tuple[bytes, int]:
    """A recording's bytes, once all of it has been decoded.

    Args:
        path: A FLAC file, mono, 16 kHz.

    Returns:
        The file's content and its number of samples, at least 1.

    Raises:
        ValueError: In one line: what is wrong with which file.
    """
    import soundfile

    try:
        content = path.read_bytes()
    except OSError as error:  # not to be taken for an error in writing the shard
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    if not content:
        raise ValueError(f"{path}: empty file; extract its archive anew")
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as sound:
            rate, channels, promised = sound.samplerate, sound.channels, sound.frames
            samples = len(sound.read(dtype="int16"))
    except (soundfile.LibsndfileError, RuntimeError, ValueError, MemoryError) as error:
        reason = str(error).rpartition(":")[2].strip().rstrip(".")
        raise ValueError(f"{path}: cannot be decoded ({reason}); extract it anew") from error
    if rate != SAMPLE_RATE or channels != 1:
        raise ValueError(f"{path}: {rate} Hz, {channels} channels; needed: {SAMPLE_RATE} Hz, 1")
    if promised == 0:
        raise ValueError(f"{path}: holds no sound (0 samples)")
    if samples != promised:
        raise ValueError(f"{path}: cut short, {samples} of {promised} samples; extract it anew")
    return content, samples


class ShardReader:
    """Reads recordings out of shards by their places; every process opens its own files.

    Args:
        folder: Folder of the shards.
        index: Arrays ``shard``, ``offset``, ``size`` and ``num_samples`` over all recordings.
        names: Names of the shards that ``shard`` counts.
    """

    def __init__(self, folder: Path, index: Mapping[str, np.ndarray], names: Sequence[str]) -> None:
        self.folder, self.index, self.names = folder, index, list(names)
        self._files: dict[int, int] = {}
        self._owner = os.getpid()

    def read(self, number: int) -> np.ndarray:
        """One recording.

        Args:
            number: Which one.

        Returns:
            audio_N: int16 samples.

        Raises:
            ValueError: If the shard's bytes are no longer what was indexed.
            OSError: If the shard cannot be read.
        """
        import soundfile

        shard = int(self.index["shard"][number])
        size, offset = int(self.index["size"][number]), int(self.index["offset"][number])
        content = os.pread(self._file(shard), size, offset)
        try:
            audio_N, _ = soundfile.read(io.BytesIO(content), dtype="int16")
        except soundfile.LibsndfileError:
            audio_N = np.zeros(0, dtype=np.int16)
        if len(audio_N) != self.index["num_samples"][number]:
            path = self.folder / f"{self.names[shard]}.tar"
            raise ValueError(f"{path}: damaged at byte {offset}; delete it and run prepare again")
        return audio_N

    def _file(self, shard: int) -> int:
        if self._owner != os.getpid():  # a forked worker must not share the parent's table
            self._files, self._owner = {}, os.getpid()
        if shard not in self._files:
            path = self.folder / f"{self.names[shard]}.tar"
            self._files[shard] = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        return self._files[shard]

    def __getstate__(self) -> dict[str, Any]:
        """A spawned worker gets no open file."""
        return {**self.__dict__, "_files": {}}


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> int:
    """Append a file and tell where its data begins: after one header block."""
    header = tarfile.TarInfo(name)
    header.size = len(content)
    offset = tar.offset + tarfile.BLOCKSIZE
    tar.addfile(header, io.BytesIO(content))
    return offset


def _texts(plan: ShardPlan) -> dict[str, str]:
    """What identifies a shard's content: all keys and transcripts."""
    return {utterance.key: utterance.text for utterance in plan.utterances}
