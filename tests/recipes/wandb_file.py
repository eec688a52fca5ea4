"""Reads what the W&B client wrote: a LevelDB log of protobuf records behind a 7-byte header.

Written after the description of the log format in google/leveldb, doc/log_format.md, so that the
tests depend on no private module of the client but its protobuf classes.
"""

import json
import struct

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER, FILE_HEADER = 32768, 7, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path):
    """All records of a ``.wandb`` file."""
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    at, parts, found = FILE_HEADER, [], []
    while at + HEADER <= len(content):
        if BLOCK - at % BLOCK < HEADER:  # a block's last bytes are left empty
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        assert kind in (FULL, FIRST, MIDDLE, LAST)
        parts.append(content[at + HEADER : at + HEADER + length])
        at += HEADER + length
        if kind in (FULL, LAST):
            found.append(Record.FromString(b"".join(parts)))
            parts = []
    return found


def values(items):
    """Key -> value of a protobuf list of items with JSON values."""
    return {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}
