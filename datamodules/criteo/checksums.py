"""Checksums of prepared Criteo files: one per piece that was written, to be read back."""

import json
import zlib
from functools import partial
from pathlib import Path

from datamodules.common.process_pool import outcomes
from datamodules.common.records import MANIFEST
from datamodules.criteo.store import open_split

CHECKSUMS = "checksums.json"
READ_BYTES = 1 << 24

Block = tuple[str, int, int, int]
"""File, first byte, number of bytes and their CRC-32."""


def verify(folder: Path, processes: int, *, show_progress: bool = False) -> list[str]:
    """Compare a finished directory's files with their checksums; one line per damaged piece."""
    path = folder / CHECKSUMS
    if not path.is_file():
        return [f"{path} is missing; delete {folder / MANIFEST} and run prepare again"]
    try:
        blocks = [tuple(block) for block in json.loads(path.read_text())]
        assert all(len(block) == 4 for block in blocks)
        splits = {str(name).rpartition("_")[0] for name, *_ in blocks} - {"dictionary", ""}
    except (ValueError, TypeError, AssertionError):
        return [f"{path} is damaged; delete {folder / MANIFEST} and run prepare again"]
    try:
        for split in sorted(splits):
            open_split(folder, split)  # the checksums leave out the headers
    except (OSError, ValueError) as error:
        return [str(error)]
    check = partial(_check, folder)
    results = outcomes(check, blocks, processes, "checking", show_progress=show_progress)
    return sorted(result for result in results if isinstance(result, str))


def _check(folder: Path, block: Block) -> None:
    """Raise if a file's bytes are not those that were written."""
    name, offset, num_bytes, expected = block
    path, checksum = folder / name, 0
    with path.open("rb") as file:
        file.seek(offset)
        for start in range(0, num_bytes, READ_BYTES):
            checksum = zlib.crc32(file.read(min(READ_BYTES, num_bytes - start)), checksum)
    if checksum != expected:
        raise ValueError(
            f"{path}, bytes {offset:,} to {offset + num_bytes:,}: not what was written; delete "
            f"{folder / MANIFEST} and run prepare again"
        )
