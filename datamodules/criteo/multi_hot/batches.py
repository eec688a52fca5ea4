"""Batches of rows with bags, from prepared files or from the published multi-hot ones.

Letters: B rows of a batch, L ids of all bags of a row.
"""

from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.criteo.batches import Block, rows
from datamodules.criteo.multi_hot.bags import FILE, Bags
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
    return np.log((dense_BN + np.int32(3)).astype(np.float32))


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
        return {
            "dense": torch.from_numpy(logarithm(rows(files["dense"], block))),
            "bags": torch.from_numpy(ids if bags is None else bags.expand(ids)),
            "label": torch.from_numpy(rows(files["label"], block)),
        }


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
