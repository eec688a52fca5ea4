"""Check what a machine and a data directory have and lack for one benchmark."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

from callbacks.checkpoint_files import KEPT
from datamodules.common.cache import cache_dir
from datamodules.common.loaders import memory_note, socket_problem
from recipes.cli.benchmark import Benchmark
from recipes.cli.data_check import OPEN
from recipes.cli.demo_times import demo_time
from recipes.cli.doctor_memory import closed_memory, shortages
from recipes.cli.environment import writable
from recipes.cli.screen import wrap_to_terminal

RUNS = Path("runs")  # the default of --output_root


class Finding(NamedTuple):
    """One line of the doctor's report."""

    kind: Literal["has", "lacks", "note"]
    """``lacks`` prevents the benchmark from running here; ``note`` does not."""
    text: str

    def __str__(self) -> str:
        return wrap_to_terminal(f"  {self.kind:7}{self.text}", indent=9)


def examine(benchmark: Benchmark, datamodule: Any, *, own_data: bool = False) -> Iterator[Finding]:
    """Yield findings on libraries, devices, data, disk and time, in that order.

    Args:
        benchmark: The data sheet.
        datamodule: The data module.
        own_data: Accept data that is not the benchmark's, as the open division does.

    Yields:
        The findings.
    """
    yield from _libraries()
    yield from _devices()
    yield from _loaders(datamodule)
    root: Path | None = getattr(datamodule, "root", None)
    if streamed := getattr(datamodule, "streamed", None):
        yield from _shards(datamodule, streamed)
    elif root is None:
        yield from _demo(benchmark)
    else:
        yield from _data(benchmark, datamodule, Path(root), own_data=own_data)
    yield Finding("note", _time(benchmark))


def _libraries() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    named = [f"Python {platform.python_version()}"]
    for text in metadata.requires("finishline") or ():
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            yield Finding("lacks", f"library {need}: pip install '{need}'")
            continue
        if not need.specifier.contains(version, prereleases=True):
            yield Finding(
                "lacks", f"library {need}: version {version} is installed; pip install '{need}'"
            )
        named.append(f"{need.name} {version}")
    yield Finding("has", ", ".join(named))


def _devices() -> Iterator[Finding]:
    import torch

    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    yield Finding("has", f"{os.cpu_count()} CPU cores, {pages / 2**30:.0f} GiB memory")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(count):
        properties = torch.cuda.get_device_properties(index)
        yield Finding("has", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    if not count and shutil.which("nvidia-smi"):
        yield Finding(
            "lacks",
            f"a CUDA device that torch can use, though nvidia-smi is installed: torch is built for "
            f"CUDA {torch.version.cuda}; compare with the driver version that nvidia-smi shows",
        )
    elif not count:
        yield Finding("note", "no CUDA device: demos run here, the real benchmark needs a GPU")


def _loaders(datamodule: Any) -> Iterator[Finding]:
    """Warn of what would end loader processes."""
    if not getattr(datamodule, "num_workers", 0):
        return
    if line := socket_problem():
        yield Finding("lacks", line)
    if line := memory_note():
        yield Finding("note", line)


def _shards(datamodule: Any, streamed: Any) -> Iterator[Finding]:
    """Every shard can be opened, and how many samples they hold is known."""
    problems: list[str] = datamodule.problems()
    for line in problems:
        yield Finding("lacks", line)
    if not problems:
        yield Finding("has", f"{streamed.summary()}; a run on them is open division")
        for line in streamed.notes():
            yield Finding("note", line)


def _demo(benchmark: Benchmark) -> Iterator[Finding]:
    folder = cache_dir()
    if not writable(folder):
        yield Finding(
            "lacks", f"{folder} cannot be written: set FINISHLINE_CACHE to a writable directory"
        )
    else:
        yield Finding("has", f"a directory for generated data: {folder}")
    yield Finding(
        "note",
        f"no --data.root: the demo needs no data. {benchmark.dataset}: "
        f"doctor --data.root DIR lists what is missing",
    )


def _data(
    benchmark: Benchmark, datamodule: Any, root: Path, *, own_data: bool
) -> Iterator[Finding]:
    problems: list[str] = datamodule.problems()
    target = Path(getattr(datamodule, "prepared_dir", None) or root)
    prepared = prepared_folder(target)
    for line in problems:
        yield Finding("lacks", line)
    for line in getattr(datamodule, "notes", list)():
        yield Finding("note", line)
    differences = [] if problems else datamodule.differences()
    for line in differences:
        hint = "" if own_data else f": fit stops, but trains on it with {OPEN}"
        kind: Literal["note", "lacks"] = "note" if own_data else "lacks"
        yield Finding(kind, f"not the benchmark's data: {line}{hint}")
    if not problems:
        state = f", preprocessed in {prepared}" if prepared else ""
        name = f"data in {root} for the open division" if differences else None
        yield Finding("has", f"{name or f'{benchmark.dataset} in {root}'}{state}")
    if prepared is None and root.is_dir() and not writable(target):
        hint = " (--data.prepared_dir)" if hasattr(datamodule, "prepared_dir") else ""
        yield Finding("lacks", f"{target} cannot be written: choose a writable directory{hint}")
    for line in shortages(benchmark, datamodule, own_data=own_data and bool(differences)):
        yield Finding("lacks", line)
    if memory := closed_memory(benchmark):
        yield Finding("note", memory)
    if prepared is None:
        yield _disk(benchmark, target, download=bool(problems))
    if problem := checkpoint_problem(benchmark):
        yield Finding("note", problem)


def _disk(benchmark: Benchmark, target: Path, *, download: bool) -> Finding:
    """Compare the free space with what is still to be written for the whole data set."""
    needs, where = benchmark.needs, _existing(target)
    needed = needs.prepared_gb + (needs.download_gb or 0.0) * download
    free = shutil.disk_usage(where).free / 1e9
    sizes = {
        "download": needs.download_gb if download else None,
        "preprocessing": needs.prepared_gb,
    }
    parts = [f"{name} {size:g} GB" for name, size in sizes.items() if size]
    whole = f"; the whole data set: {', '.join(parts)}" if parts else ""
    text = f"{free:,.0f} GB free disk in {where}{whole}"
    # Some prepare a part of the data set only; the data module itself checks the space for that.
    return Finding("has" if free >= needed else "lacks" if download else "note", text)


def checkpoint_problem(benchmark: Benchmark, root: Path = RUNS) -> str | None:
    """Return one line if the checkpoints of a closed run do not fit into a directory of runs."""
    size = KEPT * (benchmark.needs.checkpoint_gb or 0.0)
    free = shutil.disk_usage(_existing(root)).free / 1e9
    if free >= size:
        return None
    return (
        f"{_existing(root)} has {free:,.1f} GB free, {KEPT} checkpoints of a run need {size:,.1f} "
        "GB; make room or give fit another directory with --output_root DIR"
    )


def _time(benchmark: Benchmark) -> str:
    needs = benchmark.needs
    real = "unknown"
    if needs.published_minutes is not None:
        real = f"{needs.published_minutes:g} min on eight A100 (NVIDIA's code, round v1.0)"
    return (
        f"time to the target: demo {demo_time(benchmark.name)} on two CPU cores (measured); "
        f"real data {real}, and {benchmark.runs} runs make a result"
    )


def prepared_folder(folder: Path) -> Path | None:
    """Return the directory of preprocessed data, ``folder`` or one level below, if there is any."""
    # A manifest, an index of shards, or arrays that were preprocessed elsewhere.
    one_below = ("finishline-*/*manifest*.json", "finishline-*/*.index.npy")
    for pattern in ("*manifest*.json", "*.npy", *one_below):
        for path in sorted(folder.glob(pattern)) if folder.is_dir() else ():
            return path.parent
    return None


def _existing(path: Path) -> Path:
    """Return the nearest existing directory upwards."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.is_dir())
