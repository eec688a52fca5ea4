"""Folders of torch's distributed checkpoint: each rank wrote its shares of the tensors to a file.

Besides ``.metadata``, which says where the parts of each tensor are, such a folder holds
``meta.pt``, with all that is no tensor of the network or its optimizers: Lightning's names.
"""

from __future__ import annotations

import io
import mmap
import pickle
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch.distributed.checkpoint import FileSystemReader, Metadata, save
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.format_utils import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

INDEX, REST, INDEX_SUM = ".metadata", "meta.pt", "finishline_index"
WEIGHTS = "state_dict"
# What an index is made of; anything else in it could be code.
PLAIN = {"torch.serialization._get_layout", "pathlib.PosixPath", "torch.Size"}
PLAIN |= {"torch.distributed.checkpoint.filesystem._StorageInfo"}


def load_sharded(path: Path, *, lazy: bool = False, optimizers: bool = False) -> dict[str, Any]:
    """Load a folder as if it were one file of the same run, on the CPU.

    Args:
        path: The folder.
        lazy: Give the weights' shapes only, as tensors on the meta device.
        optimizers: Also load ``optimizer_states``, as an unsharded optimizer keeps them.

    Returns:
        The content of a Lightning checkpoint.

    Raises:
        ValueError: If a checksum is wrong, a file is missing or there is code in one; one line.
    """
    index = check_folder(path)
    content = torch.load(path / REST, map_location="cpu", weights_only=True)
    if lazy:
        content[WEIGHTS] = {
            index.planner_data[name][1]: torch.empty(item.size, device="meta")
            for name, item in index.state_dict_metadata.items()
            if isinstance(item, TensorStorageMetadata) and index.planner_data[name][0] == WEIGHTS
        }
        return content
    numbers = sorted({part[0] for part in index.planner_data.values()} - {WEIGHTS})
    planner = _EmptyStateDictLoadPlanner({WEIGHTS, *(numbers if optimizers else ())})
    saved: dict[str, Any] = {}
    with damage_told(path):
        _load_state_dict(saved, FileSystemReader(path), planner=planner, no_dist=True)
    content[WEIGHTS] = saved[WEIGHTS]
    if optimizers:
        content["optimizer_states"] = [_by_number(saved[name]) for name in numbers]
    return content


def save_sharded(content: dict[str, Any], path: Path, *, main: bool) -> None:
    """Write a checkpoint's tensors as shares of all ranks, and the rest, as Lightning reads them.

    Args:
        content: A Lightning checkpoint; its tensors are this rank's shares. Weights and optimizers
            are taken out of it.
        path: The folder, the same on all ranks.
        main: Whether this rank writes the rest.

    Raises:
        OSError: On every rank, if one could not write.
    """
    states = {f"optimizer_{k}": s for k, s in enumerate(content.pop("optimizer_states", []))}
    states[WEIGHTS] = content.pop(WEIGHTS)
    try:
        save(states, checkpoint_id=path)
    except CheckpointException as error:
        rank, (reason, _) = next(iter(error.failures.items()))
        raise OSError(f"rank {rank}: {getattr(reason, 'strerror', None) or reason}") from error
    if main:
        torch.save({**content, INDEX_SUM: _index_sum(path)}, path / REST)


def _index_sum(path: Path) -> int:
    return zlib.crc32((path / INDEX).read_bytes())


def check_folder(path: Path) -> Metadata:
    """Return a folder's index; raise a ValueError of one line if any of its files is damaged."""
    with damage_told(path):
        facts = sorted((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in path.iterdir())
        return _checked(path, tuple(facts))


@contextmanager
def damage_told(path: Path) -> Iterator[None]:
    """Turn the many kinds of errors that torch, pickle and zipfile raise into a ValueError."""
    try:
        yield
    except _DamagedError:
        raise
    except (Exception, CheckpointException) as error:
        raise _damaged(path, "a file is cut short or missing") from error


@lru_cache(maxsize=4)  # a command asks several times, and a large folder takes minutes
def _checked(path: Path, facts: tuple[Any, ...]) -> Metadata:
    if ZipFile(path / REST).testzip() is not None:
        raise _damaged(path, f"the checksum of {REST} is wrong")
    rest = torch.load(path / REST, map_location="cpu", weights_only=True)
    if rest[INDEX_SUM] != _index_sum(path):
        raise _damaged(path, f"the checksum of {INDEX} is wrong")
    with (path / INDEX).open("rb") as file:
        index: Metadata = _Unpickler(file).load()
    files: dict[str, Any] = {}
    for key, where in (index.storage_data or {}).items():
        name = where.relative_path
        if name not in files:
            with (path / name).open("rb") as file:
                files[name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        item = io.BytesIO(files[name][where.offset : where.offset + where.length])
        if ZipFile(item).testzip() is not None:
            raise _damaged(path, f"the checksum of {key.fqn} in {name} is wrong")
        if isinstance(index.state_dict_metadata[key.fqn], BytesStorageMetadata):
            item.seek(0)
            torch.load(item, weights_only=True)  # torch's own reader would run its code
    return index


class _Unpickler(pickle.Unpickler):
    """Builds an index without running code that it may contain."""

    def find_class(self, module: str, name: str) -> Any:
        plain = f"{module}.{name}" in PLAIN or module == "torch.distributed.checkpoint.metadata"
        if plain or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} in an index")


def _by_number(state: dict[str, Any]) -> dict[str, Any]:
    """Number the parameters of an optimizer's state, which are named in a folder."""
    groups = state["param_groups"]
    numbers = {name: k for k, name in enumerate(n for group in groups for n in group["params"])}
    return {
        "state": {numbers[name]: value for name, value in state["state"].items()},
        "param_groups": [
            {**group, "params": [numbers[name] for name in group["params"]]} for group in groups
        ],
    }


class _DamagedError(ValueError):
    """One line for the user."""


def _damaged(path: Path, reason: str) -> _DamagedError:
    return _DamagedError(f"{path} is damaged ({reason}); pass a different checkpoint")
