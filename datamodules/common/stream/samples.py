"""The samples of one shard, in its order, read with webdataset's iterators."""

import tarfile
import zlib
from collections.abc import Collection, Generator, Mapping
from typing import Any, NamedTuple

from datamodules.common.stream.opening import ShardError, open_shard
from datamodules.common.stream.pattern import show

BLOCK = tarfile.BLOCKSIZE
MOST_NAMED = 8


class Raw(NamedTuple):
    """A sample as it is in a shard.

    Attributes:
        number: Number of the sample, the same in every epoch and on every rank.
        repeat: 0, or which repetition this is of a sample that pads an epoch.
        name: Shard and key, for messages.
        fields: Ending -> bytes.
    """

    number: int
    repeat: int
    name: str
    fields: Mapping[str, bytes]

    def field(self, endings: Collection[str]) -> bytes:
        """Return the first field with one of some endings; a ValueError if there is none."""
        for ending in endings:
            if ending in self.fields:
                return self.fields[ending]
        # A name such as a.b.jpg is the file "b.jpg" of the sample "a".
        dots = any("." in field for field in self.fields)
        hint = " (a sample's key ends at the first dot of the file name)" if dots else ""
        names = sorted(self.fields)
        shown = ", ".join(names[:MOST_NAMED]) + ", ..." * (len(names) > MOST_NAMED)
        raise ValueError(f"has no {' or '.join(endings)}, only {shown}{hint}")


def shard_samples(
    address: str, start: int = 0, stop: int | None = None
) -> Generator[tuple[str, dict[str, bytes]]]:
    """Yield the samples of a shard: key, and ending -> bytes.

    Args:
        address: From ``pattern.expand``.
        start: Byte at which a sample begins, the first one.
        stop: Byte at which a later one begins, which is not read; None reads to the end.

    Yields:
        Key and fields; a shard holds at least one sample.

    Raises:
        ShardError: If the shard cannot be read to its end; one line that names it.
    """
    from webdataset.tariterators import group_by_keys, tar_file_expander

    with open_shard(address, start, stop) as stream:
        watched, key, last = _Watched(stream), None, None
        try:
            files = tar_file_expander(iter([{"url": address, "stream": watched}]))
            for sample in group_by_keys(files):
                if last is not None:  # held back: of a shard that is cut short it may be a half
                    yield last
                key = sample["__key__"]
                last = key, {k: v for k, v in sample.items() if not k.startswith("__")}
        except ShardError as error:  # webdataset adds arguments, which would change its text
            raise ShardError(error.line) from error
        except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:
            after = f", after {key}" if key else ""
            raise ShardError(f"{show(address)}: {_what(error)}{after}") from error
        if last is None:
            raise ShardError(f"{show(address)}: holds no samples (files named KEY.ENDING in a tar)")
        if stop is None and not watched.has_end:
            raise ShardError(f"{show(address)}: is cut short, after {key}")
    yield last


def sample_name(address: str, key: str) -> str:
    """Return a sample's name in messages."""
    return f"{show(address)}: {key}"


class _Watched:
    """A stream that knows whether a tar's end was read: a block of zeros.

    Python's tarfile takes the end of a file between two members for the end of the archive.
    """

    def __init__(self, stream: Any) -> None:
        self._stream, self._tail, self._start = stream, b"", b""

    def read(self, size: int) -> bytes:
        data: bytes = self._stream.read(size)
        self._start = (self._start or data)[:BLOCK]
        self._tail = (self._tail + data)[-BLOCK:]
        return data

    @property
    def has_end(self) -> bool:
        """Whether the last block read is one of zeros; not known of packed archives."""
        packed = self._start[:2] in (b"\x1f\x8b", b"BZ") or self._start[:6] == b"\xfd7zXZ\x00"
        return packed or not any(self._tail)


def _what(error: Exception) -> str:
    text = str(error.args[0] if error.args else "").partition(" @ ")[0]
    if "duplicate file name" in text:
        return f"{text.partition(':')[0]} is in it twice"
    if isinstance(error, tarfile.ReadError) and text in ("bad checksum", "invalid header"):
        return "is damaged or not a tar file"
    if "unexpected end" in text or isinstance(error, EOFError):
        return "is cut short"
    return f"is damaged or not a tar file ({text or type(error).__name__})"
