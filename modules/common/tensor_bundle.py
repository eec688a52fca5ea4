"""Reads TensorFlow checkpoints (`.index` and `.data-00000-of-00001`) without TensorFlow.

The index is a table of sorted blocks: name -> a protocol buffer with type, shape, file and offset
of a tensor. The data file holds the tensors' bytes. Checkpoints of TensorFlow 2 name tensors by
their position in a tree of objects; one of the tensors is a protocol buffer with that tree.

Every byte is covered by a CRC-32C, which is verified: each block of the index when it is opened,
each tensor when it is read.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from modules.common.crc32c import crc32c, masked
from modules.common.snappy import decompress

MAGIC = 0xDB4775248B80FB57
FOOTER_BYTES = 48
# Numbers of TensorFlow's DataType.
DTYPES: dict[int, np.dtype] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    9: np.dtype("<i8"),
}
STRING = 7
OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


class Entry(NamedTuple):
    """Type, shape and position of a tensor's bytes."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int  # masked


class TensorBundle:
    """The tensors of one checkpoint by name; each is read on request."""

    def __init__(self, prefix: Path) -> None:
        """Read the index.

        Args:
            prefix: Path without the extension, such as ``tf1_ckpt/model.ckpt-28252``.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If the index is not such a table or is damaged.

        Source:
            tensorflow/core/lib/io/format.cc and core/protobuf/tensor_bundle.proto (TensorFlow 2.4).
        """
        self.prefix = prefix
        index = prefix.with_name(prefix.name + ".index")
        if not index.is_file():
            raise FileNotFoundError(f"{index}: missing")
        try:
            entries = dict(_table(index.read_bytes()))
            self.num_shards = _num_shards(entries.pop(b"", b""))
            self.entries = {key.decode(): _entry(value) for key, value in entries.items()}
        except (ValueError, IndexError, struct.error) as error:
            raise ValueError(
                f"{index}: not a TensorFlow checkpoint index ({error}); download it again"
            ) from error

    def read(self, name: str) -> np.ndarray:
        """Read one tensor.

        Args:
            name: A key of ``entries``.

        Returns:
            float32, float64, int32 or int64 values in the tensor's shape.

        Raises:
            FileNotFoundError: If the data file is missing.
            ValueError: If the tensor has another type, or the file is truncated or damaged.
        """
        entry = self.entries[name]
        if entry.dtype not in DTYPES:
            raise ValueError(
                f"{self.prefix}: tensor {name} is not numeric (TensorFlow type {entry.dtype})"
            )
        content, dtype = self._content(name), DTYPES[entry.dtype]
        if len(content) != dtype.itemsize * int(np.prod(entry.shape)):
            raise ValueError(f"{self.prefix}: the size of tensor {name} does not match its shape")
        values: np.ndarray = np.frombuffer(content, dtype)
        return values.reshape(entry.shape)

    def variables(self) -> dict[str, str]:
        """Map each variable's name in the program to its key for ``read``.

        Returns:
            In a checkpoint of TensorFlow 1 the two are equal.

        Raises:
            FileNotFoundError: If the data file is missing.
            ValueError: If the description of the objects is damaged.
        """
        if OBJECT_GRAPH not in self.entries:
            return {name: name for name in self.entries}
        content = self._content(OBJECT_GRAPH)
        size, at = _varint(content, 0)
        graph = content[at + 4 : at + 4 + size]  # four bytes check the size, see _text_crc
        if self.entries[OBJECT_GRAPH].dtype != STRING or len(graph) != size:
            raise ValueError(f"{self.prefix}: damaged description of the objects")
        return dict(_variables(graph))

    def _content(self, name: str) -> bytes:
        entry = self.entries[name]
        ending = f".data-{entry.shard:05d}-of-{self.num_shards:05d}"
        path = self.prefix.with_name(self.prefix.name + ending)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: missing")
        with path.open("rb") as file:
            file.seek(entry.offset)
            content = file.read(entry.size)
        if len(content) != entry.size:
            raise ValueError(f"{path}: truncated in tensor {name}; download it again")
        crc = _text_crc(content, entry.shape) if entry.dtype == STRING else crc32c(content)
        if masked(crc) != entry.crc:
            raise ValueError(
                f"{path}: tensor {name} is damaged (its checksum is wrong); download it again"
            )
        return content


def _table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    footer = content[-FOOTER_BYTES:]
    if len(footer) < FOOTER_BYTES or struct.unpack("<Q", footer[-8:])[0] != MAGIC:
        raise ValueError("wrong magic number")
    meta, at = _handle(footer, 0)
    index, at = _handle(footer, at)
    if any(footer[at:-8]):
        raise ValueError("damaged footer")
    list(_block(content, *meta))  # an index of other things, unused but verified
    for _, handle in _block(content, *index):
        yield from _block(content, *_handle(handle, 0)[0])


def _block(content: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of a block; a key omits the prefix shared with the one before."""
    block = content[offset : offset + size]
    (stored,) = struct.unpack("<I", content[offset + size + 1 : offset + size + 5])
    if masked(crc32c(content[offset : offset + size + 1])) != stored:
        raise ValueError("a block's checksum is wrong")
    if compression := content[offset + size]:
        if compression != 1:
            raise ValueError(f"compression of kind {compression}")
        block = decompress(block)
    end = len(block) - 4 * (struct.unpack("<I", block[-4:])[0] + 1)
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        added, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + added]
        at += added
        yield key, block[at : at + length]
        at += length


def _handle(content: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Read the offset and size of a block, and the offset after them."""
    offset, at = _varint(content, at)
    size, at = _varint(content, at)
    return (offset, size), at


def _text_crc(content: bytes, shape: tuple[int, ...]) -> int:
    """Compute the checksum of strings: their lengths as four bytes each, a check of these, texts.

    Source: tensorflow/core/util/tensor_bundle/tensor_bundle.cc, WriteStringTensor.
    """
    at, lengths = 0, b""
    for _ in range(int(np.prod(shape))):
        length, at = _varint(content, at)
        lengths += length.to_bytes(4, "little")
    return crc32c(content[at:], crc32c(lengths))


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """Read a number of variable length and the offset after it."""
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield numbers and values of a protocol buffer's fields."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            length, at = _varint(message, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"field of kind {kind}")
        yield tag >> 3, message[at : at + length]
        at += length


def _variables(graph: bytes) -> Iterator[tuple[str, str]]:
    """Yield names and keys from a description of objects (TensorFlow's TrackableObjectGraph)."""
    for number, node in _fields(graph):
        if number != 1 or not isinstance(node, bytes):
            continue
        for kind, attribute in _fields(node):
            if kind == 2 and isinstance(attribute, bytes):
                texts = {n: v.decode() for n, v in _fields(attribute) if isinstance(v, bytes)}
                if texts.get(1) == "VARIABLE_VALUE":
                    yield texts[2], texts[3]


def _num_shards(message: bytes) -> int:
    return next((int(v) for number, v in _fields(message) if number == 1), 1)


def _entry(message: bytes) -> Entry:
    """Parse a tensor's record; numbers that are 0 are not written."""
    numbers: dict[int, int] = {}
    shape: list[int] = []
    for field, value in _fields(message):
        if field == 2 and isinstance(value, bytes):
            for kind, dim in _fields(value):
                if kind == 2 and isinstance(dim, bytes):
                    sizes = [int(v) for number, v in _fields(dim) if number == 1]
                    shape += sizes or [0]
        elif isinstance(value, int):
            numbers[field] = value
        elif field == 6:
            numbers[field] = int.from_bytes(value, "little")
    get = numbers.get
    return Entry(get(1, 0), tuple(shape), get(3, 0), get(4, 0), get(5, 0), get(6, 0))
