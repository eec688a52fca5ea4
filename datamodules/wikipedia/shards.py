"""Shards of prepared samples: one safetensors file each, mapped into memory."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.common.atomic import atomic_file
from datamodules.wikipedia.samples import Samples

DTYPES = {"U16": np.uint16, "I64": np.int64, "U8": np.uint8, "U64": np.uint64}


def write_shard(
    path: Path, samples: Samples, articles: np.ndarray, facts: Mapping[str, Any]
) -> None:
    """Write a shard atomically; ``facts`` are JSON values kept in its header."""
    from safetensors.numpy import save

    arrays: dict[str, np.ndarray] = {
        "tokens": samples.tokens.astype(np.uint16),
        "token_starts": samples.token_starts.astype(np.int64),
        "first_lengths": samples.first_lengths.astype(np.uint16),
        "positions": samples.positions.astype(np.uint16),
        "labels": samples.labels.astype(np.uint16),
        "mask_starts": samples.mask_starts.astype(np.int64),
        "random_next": samples.random_next.astype(np.uint8),
        "articles": articles.astype(np.uint64),
    }
    with atomic_file(path) as file:
        file.write(save(arrays, metadata={"facts": json.dumps(dict(facts))}))


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return a shard's header by tensor name and the offset of the tensors, or a ValueError."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(size, 1 << 20)))
        last = max(e["data_offsets"][1] for n, e in header.items() if n != "__metadata__")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a shard; delete it and run prepare again") from error
    if path.stat().st_size != 8 + size + last:
        raise ValueError(f"{path} is truncated; delete it and run prepare again")
    return header, 8 + size


def read_facts(path: Path) -> dict[str, Any]:
    """Return the record that the writer stored in a shard's header."""
    return json.loads(read_header(path)[0]["__metadata__"]["facts"])


def open_shard(path: Path) -> dict[str, np.ndarray]:
    """Map a shard into memory: read-only arrays by name, or a ValueError."""
    header, start = read_header(path)
    # A plain array over the map: slicing the subclass costs half of a packed batch.
    content = np.asarray(np.memmap(path, np.uint8, "r", offset=0))
    arrays = {}
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = (start + offset for offset in entry["data_offsets"])
            arrays[name] = content[first:last].view(DTYPES[entry["dtype"]])
    return arrays
