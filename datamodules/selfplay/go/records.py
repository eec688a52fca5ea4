"""Training examples on disk: one zlib-compressed TFRecord file per game (``.tfrecord.zz``).

Each record is a ``tf.Example`` with ``x`` (13 planes as uint8), ``pi`` (A float32 as bytes),
``outcome`` and ``q`` (floats), ``n`` and ``c`` (ints). Read and written without TensorFlow.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit

from datamodules.selfplay.go.features import PLANES, pack_planes, unpack_planes
from datamodules.selfplay.go.games import Game

# A game may not unpack to more: 2,048 examples of 19 x 19, the longest game, take 13 MB.
MOST_BYTES = 2**24
# How far the sum of pi may be from 1: float32 values, rounded one by one.
PI_TOLERANCE = 1e-3


class Examples(NamedTuple):
    """Examples of one or more games; E of them."""

    planes: np.ndarray
    """(E, 13, K) uint8: bits, see ``features.pack_planes``."""
    pi: np.ndarray
    """(E, A) float32."""
    outcome: np.ndarray
    """(E,) float32: 1 if Black won, else -1."""


def read_game(path: Path, size: int) -> Examples:
    """Read the examples of one file.

    Args:
        path: A ``.tfrecord.zz`` file.
        size: Points per side of the board.

    Returns:
        The examples, in the order of play.

    Raises:
        OSError: If it cannot be read.
        ValueError: If the file is truncated, damaged or of another board size, or has values that
            no game has; one line.
    """
    return parse_game(unpack_game(path), path, size)


def unpack_game(path: Path) -> bytes:
    """Read and decompress a file; a ValueError if it is damaged or unpacks to more than 16 MiB."""
    decompressor = zlib.decompressobj()
    with path.open("rb") as file:
        packed = file.read(MOST_BYTES)
    try:
        content = decompressor.decompress(packed, MOST_BYTES)
    except zlib.error as error:
        raise _unreadable(path, error) from error
    if decompressor.unconsumed_tail or len(packed) == MOST_BYTES:
        raise ValueError(
            f"{path}: unpacks to more than {MOST_BYTES >> 20} MiB, which no game needs"
        )
    if not decompressor.eof:
        raise _unreadable(path, "incomplete or truncated stream")
    if decompressor.unused_data:
        raise _unreadable(path, f"{len(decompressor.unused_data)} bytes after its end")
    return content


def _unreadable(path: Path, error: object) -> ValueError:
    return ValueError(
        f"{path}: not a readable record of a game: {error}; unpack checkpoint.tar.gz again"
    )


def parse_game(content: bytes, path: Path, size: int) -> Examples:
    """Parse the content of a game's file; errors name ``path``, as in ``read_game``."""
    try:
        records = [_features(message) for message in _messages(content)]
        # A packed list and a single float both end with the four bytes.
        outcome = [struct.unpack("<f", record["outcome"][-4:])[0] for record in records]
        planes, pi = ([record[name] for record in records] for name in ("x", "pi"))
    except KeyError as error:
        raise ValueError(f"{path}: not a record of a game: {error} is missing") from error
    except (struct.error, IndexError, StopIteration, ValueError) as error:
        raise _unreadable(path, error) from error
    points = size * size
    for x, p in zip(planes, pi, strict=True):
        if len(x) != PLANES * points:
            side = (len(x) / PLANES) ** 0.5
            raise ValueError(f"{path}: its board is {side:g} x {side:g} but data.size is {size}")
        if len(p) != 4 * (points + 1):
            raise ValueError(
                f"{path}: its pi has {len(p) / 4:g} values but the board has {points + 1} moves"
            )
    whole = np.frombuffer(b"".join(planes), np.uint8).reshape(-1, PLANES, points)
    if whole.max(initial=0) > 1:
        raise ValueError(f"{path}: its planes contain {whole.max()}; only 0 and 1 are valid")
    # Planes 0 and 1 are the stones of the two colours.
    if both := np.flatnonzero((whole[:, 0] & whole[:, 1]).any(axis=1)).tolist():
        raise ValueError(f"{path}: example {both[0] + 1} has stones of both colours on one point")
    pi_EA = np.frombuffer(b"".join(pi), "<f4").astype(np.float32).reshape(-1, points + 1)
    _check_values(path, pi_EA, np.array(outcome))
    return Examples(pack_planes(whole), pi_EA, np.array(outcome, np.float32))


def _check_values(path: Path, pi_EA: np.ndarray, outcome_E: np.ndarray) -> None:
    """Raise if some pi is not a distribution over the moves, or the outcome no game's."""
    with np.errstate(invalid="ignore"):
        sum_E = pi_EA.sum(axis=1, dtype=np.float64)
        # Comparisons with NaN are false.
        good_E = (pi_EA >= 0).all(axis=1) & (np.abs(sum_E - 1) <= PI_TOLERANCE)
    if not good_E.all():
        example = int(np.argmin(good_E))
        low, total = pi_EA[example].min(), sum_E[example]
        raise ValueError(
            f"{path}: pi of example {example + 1} is not a distribution over the moves: "
            f"its least value is {low:g}, its sum {total:g}"
        )
    valid = (outcome_E == 1).all() or (outcome_E == -1).all()
    if not valid:
        wrong = next((value for value in outcome_E if abs(value) != 1), None)
        what = "both 1 and -1" if wrong is None else f"{wrong:g}"
        raise ValueError(
            f"{path}: its outcome is {what}; a game has 1 (Black won) or -1 (White won)"
        )


def write_game(path: Path, game: Game) -> None:
    content = bytearray()
    for i in range(len(game.n)):
        planes = unpack_planes(game.planes[i], game.size)
        message = _example(
            {
                "x": _bytes(planes.tobytes()),
                "pi": _bytes(game.pi[i].astype("<f4").tobytes()),
                "outcome": _float(game.outcome),
                "q": _float(float(game.q[i])),
                "n": _int(int(game.n[i])),
                "c": _int(0),
            }
        )
        length = struct.pack("<Q", len(message))
        content += length + struct.pack("<I", masked_crc(length))
        content += message + struct.pack("<I", masked_crc(message))
    path.write_bytes(zlib.compress(bytes(content)))


def game_examples(games: list[Game], size: int) -> Examples:
    """Join the examples of games in memory.

    Args:
        games: Finished games of one board size.
        size: Points per side.

    Returns:
        All their examples, game by game.
    """
    none = pack_planes(np.zeros((0, PLANES, size * size), np.uint8))
    return Examples(
        np.concatenate([none, *(g.planes for g in games)]),
        np.concatenate([np.zeros((0, size * size + 1), np.float32), *(g.pi for g in games)]),
        np.concatenate(
            [np.zeros(0, np.float32), *(np.full(len(g.n), g.outcome, np.float32) for g in games)]
        ),
    )


def _messages(content: bytes) -> Iterator[bytes]:
    """Yield the records of an uncompressed TFRecord file."""
    at = 0
    while at < len(content):
        length, length_check = struct.unpack_from("<QI", content, at)
        message = content[at + 12 : at + 12 + length]
        check = struct.unpack_from("<I", content, at + 12 + length)[0]
        if masked_crc(content[at : at + 8]) != length_check or masked_crc(message) != check:
            raise ValueError("a record is truncated or its checksum is wrong")
        yield message
        at += 16 + length


def _features(example: bytes) -> dict[str, bytes]:
    """Return the first value of each feature of a ``tf.Example`` by name."""
    first_values = {}
    for _, features in _fields(example):
        for _, entry in _fields(features):
            parts = dict(_fields(entry))
            name, kind = parts[1].decode(), next(_fields(parts[2]))[1]
            first_values[name] = next(_fields(kind))[1] if kind else b""
    return first_values


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the fields of a protocol buffer; numbers as their bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:  # varint; 1 and 5 are fixed widths, 2 has a length
            start = at
            _, at = _varint(message, at)
            yield tag >> 3, message[start:at]
            continue
        if kind == 2:
            length, at = _varint(message, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"field of kind {kind}")
        if at + length > len(message):
            raise ValueError("a field is longer than its record")
        yield tag >> 3, message[at : at + length]
        at += length


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """Read a number of variable length; returns it and the offset after it."""
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than ten bytes")


def _tagged(field: int, content: bytes) -> bytes:
    """Encode a length-delimited field."""
    return bytes([field << 3 | 2]) + _number(len(content)) + content


def _number(value: int) -> bytes:
    """Encode a number of variable length."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _bytes(content: bytes) -> bytes:
    """Encode a feature with one byte string."""
    return _tagged(1, _tagged(1, content))


def _float(value: float) -> bytes:
    """Encode a feature with one float."""
    return _tagged(2, _tagged(1, struct.pack("<f", value)))


def _int(value: int) -> bytes:
    """Encode a feature with one integer."""
    return _tagged(3, _tagged(1, _number(value)))


def _example(features: dict[str, bytes]) -> bytes:
    entries = (_tagged(1, k.encode()) + _tagged(2, v) for k, v in features.items())
    return _tagged(1, b"".join(_tagged(1, entry) for entry in entries))


def _crc_table() -> np.ndarray:
    table: np.ndarray = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = table >> 1 ^ np.where(table & 1, np.uint32(0x82F63B78), np.uint32(0))
    return table


def masked_crc(content: bytes) -> int:
    """Compute a record's checksum: CRC-32C, rotated and offset as TFRecord defines it."""
    crc = int(_crc(np.frombuffer(content, np.uint8), _TABLE))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


_TABLE = _crc_table()


@njit(nogil=True, cache=True)
def _crc(content: np.ndarray, table: np.ndarray) -> int:
    crc = np.uint32(0xFFFFFFFF)
    for byte in content:
        crc = table[(crc ^ byte) & np.uint32(0xFF)] ^ (crc >> np.uint32(8))
    return crc ^ np.uint32(0xFFFFFFFF)  # type: ignore[return-value]
