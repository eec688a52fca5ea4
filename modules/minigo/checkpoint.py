"""Mini Go's published TensorFlow 1 checkpoints, read into the dual network and written from it.

Convolutions turn from (height, width, in, out) to (out, in, height, width), dense layers from
(in, out) to (out, in). Flattening is channel-major on both sides, as the graph is in nchw order.
"""

import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from modules.common.tensor_bundle import MAGIC, TensorBundle
from modules.minigo.net import DualNet

STEP = "global_step"
MOMENTUM = "/Momentum"
PARTS = {
    "kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias",
    "moving_mean": "running_mean", "moving_variance": "running_var",
}  # fmt: skip


def _names(net: DualNet) -> dict[str, Tensor]:
    """TensorFlow name -> tensor of the net, for all parameters and running statistics."""
    found: dict[str, Tensor] = {}
    for name, layer in net.layers().items():
        norm = isinstance(layer, nn.BatchNorm2d)
        parts = ("gamma", "beta", "moving_mean", "moving_variance") if norm else ("kernel", "bias")
        for part in parts:
            tensor = getattr(layer, PARTS[part])
            if tensor is not None:
                found[f"{name}/{part}"] = tensor
    return found


def load_bundle(net: DualNet, prefix: Path) -> tuple[dict[str, Tensor], int]:
    """Load weights and running statistics into a net.

    Args:
        net: Changed in place.
        prefix: Checkpoint without its ending.

    Returns:
        Momentum by the net's parameter names (empty if the file has none) and the global step.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If it is no checkpoint, or one of another net or board size.
    """
    bundle = TensorBundle(prefix)
    wanted = _names(net)
    parameters = {id(p): name for name, p in net.named_parameters()}
    momentum: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, tensor in wanted.items():
            if name not in bundle.entries:
                raise ValueError(f"{prefix}: no tensor {name}; not a checkpoint of this network")
            tensor.copy_(_fitted(bundle, name, tensor, net.size))
            if name + MOMENTUM in bundle.entries:
                slot = _fitted(bundle, name + MOMENTUM, tensor, net.size)
                momentum[parameters[id(tensor)]] = slot
    step = int(bundle.read(STEP)) if STEP in bundle.entries else 0
    return momentum, step


def _fitted(bundle: TensorBundle, name: str, like: Tensor, size: int) -> Tensor:
    """A tensor in torch's order of axes."""
    values = bundle.read(name)
    if values.ndim == 4:
        values = values.transpose(3, 2, 0, 1)
    elif values.ndim == 2:
        values = values.T
    if values.shape != tuple(like.shape):
        raise ValueError(
            f"{bundle.prefix}: {name} has shape {values.shape} but the net needs "
            f"{tuple(like.shape)}; is it of another board size than {size} x {size}?"
        )
    return torch.from_numpy(np.array(values, np.float32))


def save_bundle(net: DualNet, prefix: Path, *, step: int = 0) -> None:
    """Write a net as such a checkpoint, without momentum.

    Args:
        net: Its weights and running statistics.
        prefix: Path without ending; ``.index`` and ``.data-00000-of-00001`` are written.
        step: Global step.

    Source:
        tensorflow/core/lib/io/table_builder.cc and tensor_bundle.proto (TensorFlow 1.15).
    """
    tensors: dict[str, np.ndarray] = {STEP: np.array(step, np.int64)}
    for name, tensor in _names(net).items():
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
    """The record of one tensor."""
    dims = b""
    for dim in values.shape:
        size = b"\x08" + _varint(dim)
        dims += b"\x12" + _varint(len(size)) + size
    kind = 9 if values.dtype == np.int64 else 1
    message = b"\x08" + _varint(kind) + b"\x12" + _varint(len(dims)) + dims
    if offset:
        message += b"\x20" + _varint(offset)
    return message + b"\x28" + _varint(len(content)) + b"\x35" + struct.pack("<I", masked(content))


def _table(entries: list[tuple[bytes, bytes]]) -> bytes:
    """A table of one data block; every key is written in full."""
    blocks = b""

    def add(block: bytes) -> bytes:
        nonlocal blocks
        handle = _varint(len(blocks)) + _varint(len(block))
        blocks += block + b"\x00" + struct.pack("<I", masked(block + b"\x00"))
        return handle

    data = add(_block(entries))
    meta = add(_block([]))
    index = add(_block([(entries[-1][0] + b"\x00", data)]))
    return blocks + (meta + index).ljust(40, b"\x00") + struct.pack("<Q", MAGIC)


def _block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """Keys and values with a restart point at each."""
    block, restarts = b"", []
    for key, value in entries:
        restarts.append(len(block))
        block += b"\x00" + _varint(len(key)) + _varint(len(value)) + key + value
    restarts = restarts or [0]
    return block + b"".join(struct.pack("<I", r) for r in (*restarts, len(restarts)))


def _varint(value: int) -> bytes:
    """A number in groups of seven bits."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def masked(content: bytes) -> int:
    """Checksum as TensorFlow's files have it: CRC-32C, turned and shifted.

    Args:
        content: What to check.

    Returns:
        32 bits.
    """
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _CRC32C[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC32C = _crc_table()
