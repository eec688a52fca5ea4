"""Writing webdataset tar shards, in the layout that ``datamodules.common.shards`` reads."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules.common.atomic import atomic_file, write_json
from datamodules.common.preparation import Done, Preparation, Unit, shorten
from datamodules.common.records import RawFile
from datamodules.common.shards import (
    FORMAT,
    WORKER_BYTES,
    index_path,
    manifest_path,
    shard_name,
    size_problem,
)
from datamodules.common.tar_file import TarShard


@dataclass(frozen=True)
class Plan:
    """The contents of the shards of one split.

    Attributes:
        dataset: Name of the data set and of its layout, such as ``imagenet``.
        split: First part of the files' names.
        fields: Ending of each field's member name, in the order that ``load`` gives them.
        keys: Member name of each sample without its ending; unique, free of dots.
        items: What ``load`` is given for each sample; must be picklable.
        samples_per_shard: Samples per tar file; the last one holds the rest.
        facts: Anything else a reader needs to know; kept in the manifest.
        texts: Text that each sample depends on besides its raw files' bytes; empty for none.
        sizes: Bytes of each sample, for the check of the disk space.
    """

    dataset: str
    split: str
    fields: tuple[str, ...]
    keys: Sequence[str]
    items: Sequence[Any]
    samples_per_shard: int = 10_000
    facts: Mapping[str, Any] = field(default_factory=dict)
    texts: Sequence[str] = ()
    sizes: Sequence[int] = ()

    def fingerprint(self, samples: slice = slice(None)) -> str:
        """Hash everything but the samples' bytes; equal plans can take over each other's work."""
        head = [FORMAT, self.dataset, self.split, list(self.fields), self.samples_per_shard]
        digest = hashlib.sha256(json.dumps([*head, dict(self.facts)], sort_keys=True).encode())
        for line in (*self.keys[samples], *self.texts[samples]):
            digest.update(line.encode() + b"\n")
        return digest.hexdigest()

    def units(self) -> list[Unit]:
        """Return one unit per shard."""
        units, size = [], self.samples_per_shard
        for number, first in enumerate(range(0, len(self.keys), size)):
            part = slice(first, first + size)
            job = Job(self.split, self.fields, number, self.keys[part], self.items[part])
            name, num_bytes = shard_name(self.split, number), sum(self.sizes[part])
            units.append(Unit(name, job, (name,), self.fingerprint(part), num_bytes))
        return units


class Job(NamedTuple):
    """A worker's task: the samples of one shard."""

    split: str
    fields: tuple[str, ...]
    number: int
    keys: Sequence[str]
    items: Sequence[Any]


class Loaded(NamedTuple):
    """A sample to write.

    Attributes:
        parts: Bytes of each field.
        raw: The raw files it was made from.
        numbers: Further integers for the sample's row of the index.
        digest: Hash by which the data set finds samples that are there twice; kept in the records.
    """

    parts: Sequence[bytes]
    raw: Sequence[RawFile] = ()
    numbers: Sequence[int] = ()
    digest: str = ""


def write_shards(
    preparation: Preparation,
    plans: Sequence[Plan],
    load: Callable[[Any], Loaded],
    *,
    processes: int = 0,
    serial_bytes: int = 0,
    most_named: int | None = None,
) -> dict[str, np.ndarray]:
    """Write splits, shard by shard in parallel; finished shards of an interrupted run are kept.

    Args:
        preparation: The folder in preparation.
        plans: One per split.
        load: Gives a sample's bytes; must be picklable. A process holds one sample at a time.
        processes: Writers; 0 chooses by cores and memory.
        serial_bytes: Below this much output one process is faster.
        most_named: Bad samples of a shard that are named before they are only counted.

    Returns:
        By split, index: int64 (N, 1 + 2 F + numbers): shard, then offset and size of each field,
        then the further numbers.

    Raises:
        ValueError: One line per sample that could not be loaded, or where two shards are equal.
    """
    folder, units = preparation.folder, {plan.split: plan.units() for plan in plans}
    for plan in plans:
        if preparation.is_new:
            _take_over(preparation, plan, units[plan.split])
        if preparation.unfinished(units[plan.split]):
            manifest_path(folder, plan.split).unlink(missing_ok=True)
    notes = preparation.run(
        "writing shards",
        partial(_write_shard, folder, load, most_named),
        [unit for split in units.values() for unit in split],
        processes=processes,
        worker_bytes=WORKER_BYTES,
        serial_bytes=serial_bytes,
    )
    return {
        plan.split: _write_manifest(folder, plan, [notes[unit.name] for unit in units[plan.split]])
        for plan in plans
    }


def _write_shard(
    folder: Path, load: Callable[[Any], Loaded], most_named: int | None, job: Job
) -> Done:
    """Write one shard; its result is its entry in the manifest and its rows of the index."""
    target = folder / shard_name(job.split, job.number)
    problems: list[str] = []
    raw: dict[RawFile, None] = {}  # each once, though samples may share them
    rows: list[list[int]] = []
    digests: list[str] = []
    with atomic_file(target) as file:
        with TarShard(file) as tar:
            for key, item in zip(job.keys, job.items, strict=True):
                try:
                    sample = load(item)
                except ValueError as error:
                    problems.append(str(error))
                    continue
                parts = dict(zip(job.fields, sample.parts, strict=True))
                offsets = tar.add(key, parts)
                places = [
                    value for name in job.fields for value in (offsets[name], len(parts[name]))
                ]
                rows.append([job.number, *places, *sample.numbers])
                digests.append(sample.digest)
                raw |= dict.fromkeys(sample.raw)
        if problems:
            raise ValueError("\n".join(shorten(problems, most_named)))
    shard = {"name": target.name, "bytes": tar.size, "sha256": tar.sha256, "samples": len(rows)}
    result = {"shard": shard, "index": rows} | ({"digests": digests} if any(digests) else {})
    return Done(result, list(raw), {target.name: tar.sha256})


def _take_over(preparation: Preparation, plan: Plan, units: Sequence[Unit]) -> None:
    """Record the shards of a finished split that has no records: an earlier version wrote it."""
    folder, split = preparation.folder, plan.split
    try:
        manifest = json.loads(manifest_path(folder, split).read_text())
        index = np.load(index_path(folder, split))
    except (OSError, ValueError):
        return
    if manifest.get("fingerprint") != plan.fingerprint():
        return
    sizes = {shard["name"]: size_problem(folder, shard) for shard in manifest["shards"]}
    for number, unit in enumerate(units):
        if sizes.get(unit.name) == "" and unit in preparation.unfinished([unit]):
            rows = index[index[:, 0] == number].tolist()
            shard = manifest["shards"][number]
            done = Done({"shard": shard, "index": rows}, sha256={unit.name: shard["sha256"]})
            preparation.remember(unit, done)


def _write_manifest(folder: Path, plan: Plan, notes: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Join the shards' notes into index and manifest, which make the split readable."""
    shards = [note["shard"] for note in notes]
    _check_equal_shards(folder, shards)
    index = np.array([row for note in notes for row in note["index"]], dtype=np.int64)
    with atomic_file(index_path(folder, plan.split)) as file:
        np.save(file, index)
    names = {shard["name"] for shard in shards}
    for stale in folder.glob(f"{plan.split}-[0-9]*.tar"):
        if stale.name not in names:
            stale.unlink()  # of an earlier plan: a reader that takes all files would find it
    for leftover in folder.glob(f".{plan.split}-[0-9]*.tar.*"):
        leftover.unlink()  # notes of an earlier version
    manifest = {
        "format": FORMAT,
        "dataset": plan.dataset,
        "split": plan.split,
        "fields": list(plan.fields),
        "samples": len(plan.keys),
        "fingerprint": plan.fingerprint(),
        "facts": dict(plan.facts),
        "shards": shards,
    }
    write_json(manifest_path(folder, plan.split), manifest)
    return index


def _check_equal_shards(folder: Path, shards: Sequence[Mapping[str, Any]]) -> None:
    """A shuffled or copied source can give the same shard twice, and no run would say so."""
    seen: dict[str, str] = {}
    for shard in shards:
        twin = seen.setdefault(shard["sha256"], shard["name"])
        if twin != shard["name"]:
            raise ValueError(f"{folder}: {twin} and {shard['name']} hold the same bytes")
