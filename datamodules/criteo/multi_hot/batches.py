"""Batches of rows with bags, from prepared files or from the published multi-hot ones.

Letters: B rows of a batch, L ids of all bags of a row.
"""

from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.common.records import MANIFEST
from datamodules.criteo.batches import Block, rows
from datamodules.criteo.multi_hot.bags import BAG_SIZES, FILE, Bags
from datamodules.criteo.multi_hot.published import PublishedRows
from datamodules.criteo.store import open_split


class Batch(TypedDict):
    """Rows of the click log."""

    dense: Tensor
    """(B, 13) float32, ``log(x + 3)`` of the integers."""
    bags: Tensor
    """(B, 214) int32, the bags of all tables side by side; or (B, 26), before a device has
    expanded them."""
    label: Tensor
    """(B,) uint8, 1 for a click."""


def logarithm(dense_BN: np.ndarray) -> np.ndarray:
    """Return ``log(x + 3)`` of int32 that are at least -2, as float32."""
    # As unsigned, since the three largest int32 plus 3 are beyond it.
    return np.log((dense_BN + np.int32(3)).view(np.uint32).astype(np.float32))


class MultiHotBlocks(Dataset[Batch]):
    """Blocks of a prepared split; files are opened with the first block, not before."""

    def __init__(
        self, folder: Path, split: str, table_sizes: tuple[int, ...], *, expanded: bool
    ) -> None:
        self._folder, self._split = folder, split
        self._table_sizes, self._expanded = table_sizes, expanded
        self._files: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": None}  # another process maps the files itself

    def __getitem__(self, block: Block) -> Batch:
        if self._files is None:
            bags = Bags.open(self._folder / FILE, self._table_sizes) if self._expanded else None
            self._files = open_split(self._folder, self._split), bags
        (files, bags) = self._files
        ids = rows(files["sparse"], block)
        self._check("sparse", block, ids, self._table_sizes)
        if bags is not None:
            ids = bags.expand(ids)
            self._check("bags", block, ids, np.repeat(self._table_sizes, BAG_SIZES))
        return {
            "dense": torch.from_numpy(logarithm(rows(files["dense"], block))),
            "bags": torch.from_numpy(ids),
            "label": torch.from_numpy(rows(files["label"], block)),
        }

    def _check(self, what: str, block: Block, ids: np.ndarray, sizes: Any) -> None:
        """Raise if a damaged file has an id that would read another table's rows."""
        if len(ids) and (ids.min() < 0 or (ids.max(0) >= sizes).any()):
            found = int(((ids < 0) | (ids >= sizes)).any(1).argmax())
            row = (block.start + found) % len(self._files[0]["sparse"])
            path = self._folder / (FILE if what == "bags" else f"{self._split}_{what}.npy")
            raise ValueError(
                f"{path}: an id of {self._split} row {row:,} is not in its table, so the file is "
                f"not what was written; delete {self._folder / MANIFEST} and run prepare"
            )


class PublishedBlocks(Dataset[Batch]):
    """Blocks of the published multi-hot files, read as they are; each id is checked."""

    def __init__(self, root: Path, split: str, table_sizes: tuple[int, ...], num_days: int) -> None:
        self._arguments = root, split, table_sizes, num_days
        self._rows: PublishedRows | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": None}

    def __getitem__(self, block: Block) -> Batch:
        if self._rows is None:
            self._rows = PublishedRows(*self._arguments)
        dense, ids, label = self._rows(block)
        return {
            "dense": torch.from_numpy(dense),
            "bags": torch.from_numpy(ids),
            "label": torch.from_numpy(label),
        }
