"""Webdataset tar shards, with an index that makes every sample addressable.

A split is ``<split>-00000.tar`` ..., ``<split>.index.npy`` and, written last, ``<split>.json``: the
manifest with sizes and hashes. Because any sample can be read by its number, ``EpochSampler`` gives
shards the same exact order, sharding over ranks and resume as plain files.

Letters: N samples, F fields of a sample (file name endings, such as ``jpg`` and ``cls``).
"""

import hashlib
import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.common.process_pool import outcomes, processes_for

FORMAT = 1
# Files kept open per process; the usual limit for one process is 1024.
OPEN_SHARDS = 256
# Room for one sample in memory, its decoded form and the libraries.
WORKER_BYTES = 2**30
_REDO = "run the recipe's prepare command to write it again"


def shard_name(split: str, number: int) -> str:
    """Return the file name of one shard, such as ``train-00012.tar``."""
    return f"{split}-{number:05d}.tar"


class UnfinishedError(ValueError):
    """A split without a readable manifest."""


class ShardSet:
    """Samples of one split by number, read with one system call per field.

    Opening reads the manifest and the files' sizes, no sample; the index is mapped on first use.

    Args:
        folder: Folder of the shards.
        split: Which split.
        dataset: Data set that the manifest must name.

    Raises:
        ValueError: One line per problem: no manifest, another data set, a shard that is missing or
            has another size.
    """

    def __init__(self, folder: Path, split: str, *, dataset: str) -> None:
        self.folder, self.split = folder, split
        self.manifest = read_manifest(folder, split, dataset)
        self.fields = tuple(self.manifest["fields"])
        self._shards: list[dict[str, Any]] = self.manifest["shards"]
        self._index: np.ndarray | None = None
        self._open: dict[int, int] = {}
        if problems := self.problems():
            raise ValueError("\n".join(problems))

    def __len__(self) -> int:
        return int(self.manifest["samples"])

    def __getstate__(self) -> dict[str, Any]:
        # A spawned worker opens its own files.
        return {**self.__dict__, "_index": None, "_open": {}}

    def __del__(self) -> None:
        for descriptor in getattr(self, "_open", {}).values():
            os.close(descriptor)

    def read(self, number: int) -> tuple[bytes, ...]:
        """Read one sample.

        Args:
            number: In ``[0, len(self))``.

        Returns:
            Bytes of each field, in the order of ``fields``.

        Raises:
            ValueError: If the shard has become shorter than the index says.
        """
        shard, *places = self._rows()[number, : 1 + 2 * len(self.fields)].tolist()
        descriptor = self._descriptor(shard)
        pairs = list(zip(places[::2], places[1::2], strict=True))
        parts = tuple(os.pread(descriptor, size, offset) for offset, size in pairs)
        if any(len(part) != size for part, (_, size) in zip(parts, pairs, strict=True)):
            path = self.folder / self._shards[shard]["name"]
            raise ValueError(f"{path}: sample {number} is past the end of the file; {_REDO}")
        return parts

    def name(self, number: int) -> str:
        """Return shard and member of a sample, for messages.

        Args:
            number: The sample.

        Returns:
            Path of the shard and the member's name in it.
        """
        shard, offset = (int(value) for value in self._rows()[number, :2])
        # The header block, which begins with the name, is in front of the content.
        header = os.pread(self._descriptor(shard), 100, offset - 512)
        member = header.rstrip(b"\0").decode(errors="replace")
        return f"{self.folder / self._shards[shard]['name']}: {member}"

    def problems(self) -> list[str]:
        """Return one line per missing file or shard of the wrong size; opens none."""
        lines = [size_problem(self.folder, shard) for shard in self._shards]
        if not (index := index_path(self.folder, self.split)).is_file():
            lines.append(f"{index} is missing")
        return [f"{line}; {_REDO}" for line in lines if line]

    def _rows(self) -> np.ndarray:
        """Map the index (N, 1 + 2 F ...): shard, offset and size of each field, further numbers."""
        if self._index is None:
            self._index = np.load(index_path(self.folder, self.split), mmap_mode="r")
        return self._index

    def _descriptor(self, shard: int) -> int:
        """Return an open file; the one opened longest ago is closed when there are too many."""
        if shard not in self._open:
            if len(self._open) >= OPEN_SHARDS:
                os.close(self._open.pop(next(iter(self._open))))
            path = self.folder / self._shards[shard]["name"]
            self._open[shard] = os.open(path, os.O_RDONLY)
        return self._open[shard]


def read_manifest(folder: Path, split: str, dataset: str) -> dict[str, Any]:
    """Read the manifest of a finished split.

    Args:
        folder: Folder of the shards.
        split: Which split.
        dataset: Data set that it must name.

    Returns:
        Keys ``dataset, split, fields, samples, fingerprint, facts`` and ``shards``, a list of
        ``name, bytes, sha256, samples``.

    Raises:
        UnfinishedError: If there is none, as of unfinished shards, or it is damaged.
        ValueError: If it is another data set's.
    """
    path = manifest_path(folder, split)
    try:
        manifest = json.loads(path.read_text())
        named = manifest["dataset"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnfinishedError(
            f"{path} is missing or unreadable: the {split} shards are not finished; {_REDO}"
        ) from error
    if named != dataset or manifest.get("format") != FORMAT:
        raise ValueError(
            f"{path} belongs to {named!r} (format {manifest.get('format')}), not to {dataset!r} "
            f"(format {FORMAT}); give another directory or delete these shards"
        )
    return manifest


def damaged_shards(
    folder: Path, split: str, dataset: str, *, processes: int = 0, show_progress: bool = False
) -> dict[Path, str]:
    """Find shards of a finished split whose bytes have changed; reads everything.

    Args:
        folder: Folder of the shards.
        split: Which split.
        dataset: Data set that the manifest must name.
        processes: Readers; 0 chooses by cores.
        show_progress: Draw a progress bar on standard error.

    Returns:
        Path of each bad shard and one line on it, in the order of the shards.

    Raises:
        ValueError: If there is no manifest, or another data set's.
    """
    shards = read_manifest(folder, split, dataset)["shards"]
    processes = processes or processes_for(len(shards), WORKER_BYTES)
    job = partial(_hash_problem, folder)
    results = outcomes(job, shards, processes, "checking", show_progress=show_progress)
    lines = [line for line in results if line]
    paths = [folder / shard["name"] for shard in shards]
    return {path: line for path in paths for line in lines if line.startswith(f"{path} ")}


def has_shards(folder: Path, split: str) -> bool:
    """Return whether a folder has shards of a split, finished or not."""
    return manifest_path(folder, split).is_file() or any(folder.glob(f"{split}-[0-9]*.tar"))


def manifest_path(folder: Path, split: str) -> Path:
    return folder / f"{split}.json"


def index_path(folder: Path, split: str) -> Path:
    return folder / f"{split}.index.npy"


def size_problem(folder: Path, shard: Mapping[str, Any]) -> str:
    path = folder / shard["name"]
    size = path.stat().st_size if path.is_file() else None
    if size == shard["bytes"]:
        return ""
    what = "is missing" if size is None else f"has {size} of {shard['bytes']} bytes"
    return f"{path} {what}, which damages {shard['samples']} samples"


def _hash_problem(folder: Path, shard: Mapping[str, Any]) -> str:
    if line := size_problem(folder, shard):
        return line
    path = folder / shard["name"]
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() == shard["sha256"]:
            return ""
    return f"{path} has changed since it was written ({shard['samples']} samples)"
