"""Writes a dual network as a TensorFlow 1 checkpoint, as Mini Go's published ones are.

Source: tensorflow/core/lib/io/table_builder.cc and tensor_bundle.proto (TensorFlow 1.15).
"""

import struct
from pathlib import Path

import numpy as np

from datamodules.selfplay.go.records import masked_crc
from modules.common.tensor_bundle import MAGIC
from modules.minigo.checkpoint import STEP, tensors_by_name
from modules.minigo.net import DualNet


def save_bundle(net: DualNet, prefix: Path, *, step: int = 0) -> None:
    """Write `prefix`.index and `prefix`.data-00000-of-00001, without momentum."""
    tensors: dict[str, np.ndarray] = {STEP: np.array(step, np.int64)}
    for name, tensor in tensors_by_name(net).items():
        values = tensor.detach().cpu().numpy()
        order = {4: (2, 3, 1, 0), 2: (1, 0)}.get(values.ndim)
        tensors[name] = np.ascontiguousarray(values.transpose(order) if order else values)
    data = bytearray()
    # The header: one data file, format version 1.
    entries = [(b"", b"\x08\x01\x1a\x02\x08\x01")]
    for name in sorted(tensors):
        content = tensors[name].tobytes()
        entries.append((name.encode(), _entry(tensors[name], len(data), content)))
        data += content
    prefix.with_name(prefix.name + ".data-00000-of-00001").write_bytes(data)
    prefix.with_name(prefix.name + ".index").write_bytes(_table(entries))


def _entry(values: np.ndarray, offset: int, content: bytes) -> bytes:
    """Encode the BundleEntryProto of one tensor."""
    dims = b""
    for dim in values.shape:
        size = b"\x08" + _varint(dim)
        dims += b"\x12" + _varint(len(size)) + size
    kind = 9 if values.dtype == np.int64 else 1
    message = b"\x08" + _varint(kind) + b"\x12" + _varint(len(dims)) + dims
    if offset:
        message += b"\x20" + _varint(offset)
    return (
        message + b"\x28" + _varint(len(content)) + b"\x35" + struct.pack("<I", masked_crc(content))
    )


def _table(entries: list[tuple[bytes, bytes]]) -> bytes:
    """Encode a table of one data block."""
    blocks = b""

    def add(block: bytes) -> bytes:
        nonlocal blocks
        handle = _varint(len(blocks)) + _varint(len(block))
        blocks += block + b"\x00" + struct.pack("<I", masked_crc(block + b"\x00"))
        return handle

    data = add(_block(entries))
    meta = add(_block([]))
    index = add(_block([(entries[-1][0] + b"\x00", data)]))
    return blocks + (meta + index).ljust(40, b"\x00") + struct.pack("<Q", MAGIC)


def _block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """Encode keys and values with a restart point at each, so that every key is written in full."""
    block, restarts = b"", []
    for key, value in entries:
        restarts.append(len(block))
        block += b"\x00" + _varint(len(key)) + _varint(len(value)) + key + value
    restarts = restarts or [0]
    return block + b"".join(struct.pack("<I", r) for r in (*restarts, len(restarts)))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
