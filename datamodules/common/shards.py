"""Tar shards that the webdataset library reads, with an index that makes every sample addressable.

A split is ``<split>-00000.tar`` ..., ``<split>.index.npy`` and, written last, ``<split>.json``: the
manifest with sizes and hashes. Because any sample can be read by its number, ``EpochSampler`` gives
shards the same exact order, sharding over ranks and resume as plain files.

Letters: N samples, F fields of a sample (file name endings, such as ``jpg`` and ``cls``).
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.common.process_pool import outcomes, processes_for
from datamodules.common.tar_file import TarShard

FORMAT = 1
# Files kept open per process; the usual limit for one process is 1024.
OPEN_SHARDS = 256
# Room for one sample in memory, its decoded form and the libraries.
WORKER_BYTES = 2**30


@dataclass(frozen=True)
class Plan:
    """What the shards of one split are to hold.

    Attributes:
        dataset: Name of the data set and of its layout, such as ``imagenet``.
        split: First part of the files' names.
        fields: Ending of each field's member name, in the order that ``load`` gives them.
        keys: Member name of each sample without its ending; unique, free of dots.
        samples_per_shard: Samples per tar file; the last one holds the rest.
        facts: Whatever else a reader wants to know; kept in the manifest.
    """

    dataset: str
    split: str
    fields: tuple[str, ...]
    keys: Sequence[str]
    samples_per_shard: int = 10_000
    facts: Mapping[str, Any] = field(default_factory=dict)

    def fingerprint(self) -> str:
        """A hash of everything but the samples' bytes: equal plans can take over each other's work.

        Returns:
            64 hexadecimal digits.
        """
        head = [FORMAT, self.dataset, self.split, list(self.fields), self.samples_per_shard]
        digest = hashlib.sha256(json.dumps([*head, dict(self.facts)], sort_keys=True).encode())
        for key in self.keys:
            digest.update(key.encode() + b"\n")
        return digest.hexdigest()

    def num_shards(self) -> int:
        """Tar files that the split takes.

        Returns:
            At least 1 for a split with samples.
        """
        return -(-len(self.keys) // self.samples_per_shard)


def write_shards(
    folder: Path,
    plan: Plan,
    load: Callable[[int], Sequence[bytes]],
    *,
    processes: int = 0,
    show_progress: bool = False,
) -> None:
    """Write a split, shard by shard in parallel; finished shards of an interrupted run are kept.

    Args:
        folder: Where the files go; made if missing.
        plan: What to write.
        load: Gives the fields' bytes of a sample by its number; must be picklable. Each process
            holds one sample at a time.
        processes: Writers; 0 chooses by cores and memory.
        show_progress: Draw a progress bar on standard error.

    Raises:
        ValueError: One line per sample that could not be loaded, or where two shards are equal.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fingerprint = plan.fingerprint()
    _reopen(folder, plan.split, fingerprint)
    todo = [
        number
        for number in range(plan.num_shards())
        if _finished(folder / shard_name(plan.split, number), fingerprint) is None
    ]
    jobs = [_job(plan, number) for number in todo]
    work = partial(_write_shard, folder, plan.split, plan.fields, fingerprint, load)
    processes = processes or processes_for(len(jobs), WORKER_BYTES)
    results = outcomes(work, jobs, processes, "writing shards:", show_progress=show_progress)
    if problems := [line for text in results if text for line in text.splitlines()]:
        raise ValueError("\n".join(sorted(problems)))
    _write_manifest(folder, plan, fingerprint)


def shard_name(split: str, number: int) -> str:
    """File name of one shard.

    Args:
        split: The split.
        number: From 0.

    Returns:
        Such as ``train-00012.tar``.
    """
    return f"{split}-{number:05d}.tar"


class ShardSet:
    """Samples of one split by number, read with one system call per field.

    Opening reads the manifest and the files' sizes, no sample; the index is mapped at first use.

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
        return {**self.__dict__, "_index": None, "_open": {}}

    def __del__(self) -> None:
        for descriptor in getattr(self, "_open", {}).values():
            os.close(descriptor)

    def read(self, number: int) -> tuple[bytes, ...]:
        """Bytes of one sample.

        Args:
            number: In ``[0, len(self))``.

        Returns:
            One entry per field, in the order of ``fields``.

        Raises:
            ValueError: If the shard has become shorter than the index says.
        """
        shard, *places = (int(value) for value in self._rows()[number])
        descriptor = self._descriptor(shard)
        pairs = zip(places[::2], places[1::2], strict=True)
        found = tuple(os.pread(descriptor, size, offset) for offset, size in pairs)
        if any(len(data) != size for data, size in zip(found, places[1::2], strict=True)):
            path = self.folder / self._shards[shard]["name"]
            raise ValueError(f"{path}: sample {number} lies past the end of the file; {_REDO}")
        return found

    def name(self, number: int) -> str:
        """Where a sample is, for messages.

        Args:
            number: The sample.

        Returns:
            Path of the shard and the member's name in it.
        """
        shard, offset = (int(value) for value in self._rows()[number, :2])
        header = os.pread(self._descriptor(shard), 100, offset - 512)
        member = header.rstrip(b"\0").decode(errors="replace")
        return f"{self.folder / self._shards[shard]['name']}: {member}"

    def problems(self) -> list[str]:
        """Files that are missing and shards of the wrong size; opens none.

        Returns:
            One line per bad file, with the number of samples that a shard takes along.
        """
        lines = [_size_problem(self.folder, shard) for shard in self._shards]
        if not self._index_path.is_file():
            lines.append(f"{self._index_path} is missing")
        return [f"{line}; {_REDO}" for line in lines if line]

    @property
    def _index_path(self) -> Path:
        return self.folder / f"{self.split}.index.npy"

    def _rows(self) -> np.ndarray:
        """The index (N, 1 + 2 F): shard, then offset and size of each field."""
        if self._index is None:
            self._index = np.load(self._index_path, mmap_mode="r")
        return self._index

    def _descriptor(self, shard: int) -> int:
        """An open file; the one opened longest ago makes room when there are too many."""
        if shard not in self._open:
            if len(self._open) >= OPEN_SHARDS:
                os.close(self._open.pop(next(iter(self._open))))
            path = self.folder / self._shards[shard]["name"]
            self._open[shard] = os.open(path, os.O_RDONLY)
        return self._open[shard]


_REDO = "run the recipe's prepare command to write it again"


def read_manifest(folder: Path, split: str, dataset: str) -> dict[str, Any]:
    """The manifest of a finished split.

    Args:
        folder: Folder of the shards.
        split: Which split.
        dataset: Data set that it must name.

    Returns:
        Keys ``dataset, split, fields, samples, fingerprint, facts`` and ``shards``, a list of
        ``name, bytes, sha256, samples``.

    Raises:
        ValueError: If there is none (half-written shards have none), or it is another data set's.
    """
    path = folder / f"{split}.json"
    try:
        manifest = json.loads(path.read_text())
        named = manifest["dataset"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is missing or unreadable: the {split} shards are not finished; {_REDO}"
        ) from error
    if named != dataset or manifest.get("format") != FORMAT:
        raise ValueError(
            f"{path} belongs to {named!r} (format {manifest.get('format')}), not to {dataset!r} "
            f"(format {FORMAT}); name another folder or delete these shards"
        )
    return manifest


def damaged_shards(
    folder: Path, split: str, dataset: str, *, processes: int = 0, show_progress: bool = False
) -> dict[Path, str]:
    """Shards of a finished split whose bytes are not those that were written; reads everything.

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
    """Whether a folder holds shards of a split, finished or not.

    Args:
        folder: Any folder.
        split: The split.

    Returns:
        True if there is a manifest or a tar file of that split.
    """
    return (folder / f"{split}.json").is_file() or any(folder.glob(f"{split}-[0-9]*.tar"))


# Writing: one job is (shard number, first sample, keys).
_Job = tuple[int, int, list[str]]


def _job(plan: Plan, number: int) -> _Job:
    first = number * plan.samples_per_shard
    return number, first, list(plan.keys[first : first + plan.samples_per_shard])


def _write_shard(
    folder: Path,
    split: str,
    fields: tuple[str, ...],
    fingerprint: str,
    load: Callable[[int], Sequence[bytes]],
    job: _Job,
) -> str:
    """Write one shard and its note; returns the lines of the samples that failed, if any."""
    number, first, keys = job
    target = folder / shard_name(split, number)
    problems, rows = [], []
    with TarShard(target) as tar:
        for position, key in enumerate(keys, start=first):
            try:
                parts = load(position)
            except ValueError as error:
                problems.append(str(error))
                continue
            row = [number]
            for ending, data in zip(fields, parts, strict=True):
                row += [tar.add(f"{key}.{ending}", data), len(data)]
            rows.append(row)
        if problems:
            tar.drop()
            return "\n".join(problems)
    note = {"name": target.name, "bytes": tar.size, "sha256": tar.sha256, "samples": len(keys)}
    _replace(_note_path(target), json.dumps({"plan": fingerprint, "shard": note, "index": rows}))
    return ""


def _note_path(shard: Path) -> Path:
    """Beside each finished shard until all are finished."""
    return shard.with_name(f".{shard.name}.json")


def _finished(shard: Path, fingerprint: str) -> dict[str, Any] | None:
    """The note of a shard that an earlier run with the same plan finished."""
    try:
        note = json.loads(_note_path(shard).read_text())
        good = note["plan"] == fingerprint and shard.stat().st_size == note["shard"]["bytes"]
    except (OSError, ValueError, KeyError):
        return None
    return note if good else None


def _reopen(folder: Path, split: str, fingerprint: str) -> None:
    """Take a finished split back to notes beside its shards, so that only bad ones are redone."""
    path, index_path = folder / f"{split}.json", folder / f"{split}.index.npy"
    try:
        manifest, index = json.loads(path.read_text()), np.load(index_path)
    except (OSError, ValueError):
        manifest = {}
    if manifest.get("fingerprint") == fingerprint:
        for number, shard in enumerate(manifest["shards"]):
            rows = index[index[:, 0] == number].tolist()
            note = {"plan": fingerprint, "shard": shard, "index": rows}
            _replace(_note_path(folder / shard["name"]), json.dumps(note))
    path.unlink(missing_ok=True)
    index_path.unlink(missing_ok=True)


def _write_manifest(folder: Path, plan: Plan, fingerprint: str) -> None:
    """Join the shards' notes into index and manifest, which make the split readable."""
    shards = [folder / shard_name(plan.split, number) for number in range(plan.num_shards())]
    notes = [note for shard in shards if (note := _finished(shard, fingerprint)) is not None]
    _refuse_equal_shards(folder, [note["shard"] for note in notes])
    index = folder / f"{plan.split}.index.npy"
    fresh = folder / f".{plan.split}.index.partial.npy"
    np.save(fresh, np.array([row for note in notes for row in note["index"]], dtype=np.int64))
    fresh.replace(index)
    manifest = {
        "format": FORMAT,
        "dataset": plan.dataset,
        "split": plan.split,
        "fields": list(plan.fields),
        "samples": len(plan.keys),
        "fingerprint": fingerprint,
        "facts": dict(plan.facts),
        "shards": [note["shard"] for note in notes],
    }
    for stale in set(folder.glob(f"{plan.split}-[0-9]*.tar")) - set(shards):
        stale.unlink()  # of an earlier plan: a reader that takes all files would find it
    _replace(folder / f"{plan.split}.json", json.dumps(manifest, indent=1))
    for leftover in folder.glob(f".{plan.split}-[0-9]*.tar.*"):
        leftover.unlink()  # notes, and what a killed process had begun


def _refuse_equal_shards(folder: Path, shards: Sequence[Mapping[str, Any]]) -> None:
    """A shuffled or copied source can give the same shard twice, and no run would say so."""
    seen: dict[str, str] = {}
    for shard in shards:
        twin = seen.setdefault(shard["sha256"], shard["name"])
        if twin != shard["name"]:
            raise ValueError(f"{folder}: {twin} and {shard['name']} hold the same bytes")


def _size_problem(folder: Path, shard: Mapping[str, Any]) -> str:
    path = folder / shard["name"]
    size = path.stat().st_size if path.is_file() else None
    if size == shard["bytes"]:
        return ""
    what = "is missing" if size is None else f"has {size} of {shard['bytes']} bytes"
    return f"{path} {what}, which damages {shard['samples']} samples"


def _hash_problem(folder: Path, shard: Mapping[str, Any]) -> str:
    if line := _size_problem(folder, shard):
        return line
    path = folder / shard["name"]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found == shard["sha256"]:
        return ""
    return f"{path} has changed since it was written ({shard['samples']} samples)"


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text)
    fresh.replace(path)
